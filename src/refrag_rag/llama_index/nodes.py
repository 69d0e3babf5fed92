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


class Short(NamedTuple):
    """A passage, and what an LLM that takes only text is shown of it."""

    passage: str
    text: str


class SpanView(_AnyNode):
    """Mixin: in LLM mode the content is a span, or a shortened passage; all else is the node's.

    The span is made anew at every reading, so a later postprocessor may still change the text.
    """

    _base: type[BaseNode]
    _place: MetadataPlace
    _hint: float | None
    _short: Short | None

    def unmarked(self, metadata_mode: MetadataMode) -> str:
        """Content as the node's own class gives it, without markers."""
        return super().get_content(metadata_mode=metadata_mode)

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """Content; in LLM mode with the passage in a span."""
        if metadata_mode != MetadataMode.LLM:
            return self.unmarked(metadata_mode)
        before, span = _pieces(self, self._place, self._hint)
        if not before:
            return span
        return self.text_template.format(metadata_str=before, content=span).strip()

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """Content blocks; in LLM mode with the passage in a span, other media as they were."""
        blocks = super().get_content_blocks(metadata_mode=metadata_mode)
        if metadata_mode != MetadataMode.LLM:
            return blocks
        texts = [TextBlock(text=piece) for piece in _pieces(self, self._place, self._hint) if piece]
        return [*texts, *(block for block in blocks if not isinstance(block, TextBlock))]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain node and how it is shown: the class itself is made on demand."""
        return mark, (_recast(self._base, self), self._place, self._hint, self._short)


def passage_text(node: BaseNode, metadata: MetadataPlace) -> str | None:
    """Text that stands inside a node's span: what is embedded, hashed and looked up.

    Indexing and answering both ask this function, so that they agree.

    Parameters
    ----------
    node
        Any node.
    metadata
        ``compressed``: the metadata that the node shows to the LLM is part of the passage;
        ``text`` and ``drop``: it is not.

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


def mark(
    node: BaseNode, metadata: MetadataPlace, score: float | None, short: Short | None = None
) -> BaseNode:
    """Make the node that shows its passage as a span to the LLM; the given node stays as it is.

    It is of a subclass of the node's class, with the same fields. A node without a passage is
    returned itself.

    Parameters
    ----------
    metadata
        Where its metadata goes.
    score
        Retrieval score, a hint for policies.
    short
        What to show in place of the span.
    """
    if passage_text(node, metadata) is None:
        return node
    cls = type(node) if isinstance(node, SpanView) else _marked_class(type(node))
    marked = cast(SpanView, _recast(cls, node))
    marked._place = metadata
    marked._hint = None if score is None else float(score)
    marked._short = short
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


def _pieces(node: SpanView, place: MetadataPlace, score: float | None) -> tuple[str, str]:
    """Metadata to print before the span (or ""), and the span."""
    passage = passage_text(node, place)
    if passage is None:
        return "", node.unmarked(MetadataMode.LLM)
    before = node.get_metadata_str(mode=MetadataMode.LLM).strip() if place == "text" else ""
    if node._short is not None:  # of the text as it was; a later postprocessor may have changed it
        known = node._short.passage == passage
        return neutralise(before), node._short.text if known else neutralise(passage)
    own = _own_text(node) or ""
    metadata = len(passage) - len(own) if passage.endswith(own) else 0
    return neutralise(before), wrap(passage, score=score, metadata=metadata)


@cache
def _marked_class(base: type[BaseNode]) -> type[BaseNode]:
    """Subclass of a node class that shows spans; it keeps the class name used in storage."""
    namespace = {
        "__module__": __name__,
        "__doc__": f"A {base.__name__} whose LLM content is a compressible span.",
        "__annotations__": {"_place": str, "_hint": float | None, "_short": Short | None},
        "_base": PrivateAttr(default=base),
        "_place": PrivateAttr(default="compressed"),
        "_hint": PrivateAttr(default=None),
        "_short": PrivateAttr(default=None),
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
