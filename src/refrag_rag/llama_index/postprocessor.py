"""RefragPostprocessor: marks retrieved passages as compressible, or shortens them."""

from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from refrag_rag.adapters.passages import PassageStep
from refrag_rag.engine import Refrag
from refrag_rag.llama_index.nodes import MetadataPlace, View, mark, passage_text


class RefragPostprocessor(PassageStep, BaseNodePostprocessor):
    """Mark the passages of retrieved nodes as compressible, in LLM mode only.

    Put it last: other postprocessors that read LLM mode would see the markers. Nodes, scores and
    order stay; the LLM alone sees the span. Nodes without text, with media, or empty pass through.

    With ``output="text"`` an LLM that takes only text reads each passage shortened to the chunks
    that the policy would expand, see `refrag_rag.engine.extract`.

    Parameters
    ----------
    engine
        With it, passages that the store does not have are encoded here, in one batch, and kept.
        ``output="text"`` needs it.
    metadata
        What happens to the metadata that nodes show to the LLM: ``compressed`` with the text,
        printed before it as ``text``, or ``drop``.
    p, policy
        For ``text``: the largest fraction of the chunks to keep, of all nodes together, and who
        chooses them. None: the engine's.
    unchosen
        For ``text``: whether a node with nothing chosen stays (its text is then ``…``).
    """

    metadata: MetadataPlace = Field(
        default="compressed", description="Where the metadata meant for the LLM goes."
    )

    def __init__(
        self, engine: Refrag | None = None, metadata: MetadataPlace = "compressed", **data: Any
    ) -> None:
        super().__init__(engine, **{**data, "metadata": metadata})

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised pipelines."""
        return "RefragPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = [passage_text(item.node, self.metadata) or "" for item in nodes]
        if self.output == "spans":
            self._prepare_to_mark(passages)
            return [self._marked(item) for item in nodes]
        question = query_bundle.query_str if query_bundle is not None else ""
        extracts = self._shorten(passages, question, [item.score for item in nodes])
        return [
            self._marked(item, (passage, one.text))
            for item, passage, one in zip(nodes, passages, extracts, strict=True)
            if self._stays(one)
        ]

    def _marked(self, item: NodeWithScore, short: tuple[str, str] | None = None) -> NodeWithScore:
        score = None if item.score is None else float(item.score)
        node = mark(item.node, View(self.metadata, score, short))
        return item.model_copy(update={"node": node})
