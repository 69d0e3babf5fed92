"""What of a node goes into a span, and nodes that show that span to the LLM and to nobody else."""

import types
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, Node, TextNode

from refrag_rag.spans import neutralise, wrap

if TYPE_CHECKING:
    _AnyNode = TextNode
else:
    _AnyNode = object  # a mixin with model fields of its own would override those of a user's class

MetadataPlace = Literal["compressed", "text", "drop"]
"""Where the metadata that a node shows to the LLM goes: into the span, before it, nowhere."""

N = TypeVar("N", bound=BaseNode)


class View(NamedTuple):
    """How a node is shown: where its metadata goes, its retrieval score as a hint for policies.

    `short` is for LLMs that take only text: a passage, and what they are shown of it.
    """

    place: MetadataPlace = "compressed"
    score: float | None = None
    short: tuple[str, str] | None = None


class SpanView(_AnyNode):
    """Mixin: in LLM mode the content is a span, or a shortened passage; all else is the node's.

    The span is made anew at every reading, so a later postprocessor may still change the text.
    """

    _base: type[BaseNode]
    _view: View

    def unmarked(self, metadata_mode: MetadataMode) -> str:
        """Content as the node's own class gives it, without markers."""
        return super().get_content(metadata_mode=metadata_mode)

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """Content; in LLM mode with the passage in a span."""
        if metadata_mode != MetadataMode.LLM:
            return self.unmarked(metadata_mode)
        before, span = self._pieces()
        if not before:
            return span
        return self.text_template.format(metadata_str=before, content=span).strip()

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """Content blocks; in LLM mode with the passage in a span, other media as they were."""
        blocks = super().get_content_blocks(metadata_mode=metadata_mode)
        if metadata_mode != MetadataMode.LLM:
            return blocks
        texts = [TextBlock(text=piece) for piece in self._pieces() if piece]
        return [*texts, *(block for block in blocks if not isinstance(block, TextBlock))]

    def _pieces(self) -> tuple[str, str]:
        """Metadata to print before the span (or ""), and the span."""
        place, score, short = self._view
        passage = passage_text(self, place)
        if passage is None:
            return "", self.unmarked(MetadataMode.LLM)
        before = self.get_metadata_str(mode=MetadataMode.LLM).strip() if place == "text" else ""
        if short is not None:  # of the text as it was; a later postprocessor may have changed it
            span = short[1] if short[0] == passage else neutralise(passage)
        else:
            own = _own_text(self) or ""
            metadata = len(passage) - len(own) if passage.endswith(own) else 0
            span = wrap(passage, score=score, metadata=metadata)
        return neutralise(before), span

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain node and how it is shown: the class itself is made on demand."""
        return mark, (_recast(self._base, self), self._view)


def passage_text(node: BaseNode, metadata: MetadataPlace) -> str | None:
    """Text that stands inside a node's span: what is embedded, hashed and looked up.

    Indexing and answering both ask this function, so that they agree. Where `metadata` is
    ``compressed``, what the node shows to the LLM of its metadata is part of the passage.

    Returns
    -------
    str or None
        None for a node without text, or with media besides its text.
    """
    text = _own_text(node)
    if text is None or not text.strip():
        return None
    if metadata != "compressed":
        return text
    if isinstance(node, SpanView):
        return node.unmarked(MetadataMode.LLM)
    return node.get_content(metadata_mode=MetadataMode.LLM)


def mark(node: BaseNode, view: View) -> BaseNode:
    """Make the node that shows its passage as a span to the LLM; the given node stays as it is.

    It is of a subclass of the node's class, with the same fields. A node without a passage is
    returned itself.
    """
    if passage_text(node, view.place) is None:
        return node
    cls = type(node) if isinstance(node, SpanView) else _marked_class(type(node))
    marked = cast(SpanView, _recast(cls, node))
    marked._view = view
    return marked


def _own_text(node: BaseNode) -> str | None:
    """Return a node's text without metadata; None where there are media beside it."""
    if isinstance(node, ImageNode):
        return None
    if isinstance(node, TextNode):
        return node.text
    if isinstance(node, Node) and node.text_resource is not None:
        media = (node.image_resource, node.audio_resource, node.video_resource)
        return node.text_resource.text if not any(media) else None
    return None


@cache
def _marked_class(base: type[BaseNode]) -> type[BaseNode]:
    """Subclass of a node class that shows spans; it keeps the class name used in storage."""
    namespace = {
        "__module__": __name__,
        "__doc__": f"A {base.__name__} whose LLM content is a compressible span.",
        "__annotations__": {"_view": View},
        "_base": PrivateAttr(default=base),
        "_view": PrivateAttr(default=View()),
    }
    name, bases = f"Refrag{base.__name__}", (SpanView, base)
    made = types.new_class(name, bases, exec_body=lambda body: body.update(namespace))
    return cast(type[BaseNode], made)


def _recast(cls: type[N], node: BaseNode) -> N:
    """Copy of a node as another class; its lists and dicts are copied too, one level deep."""
    values = {
        name: value.copy() if isinstance(value, dict | list) else value
        for name, value in vars(node).items()
    }
    made = cls.model_construct(_fields_set=set(node.model_fields_set), **values)
    private = made.__pydantic_private__
    if private is not None:
        known = node.__pydantic_private__ or {}
        private.update({name: value for name, value in known.items() if name in private})
    return made
