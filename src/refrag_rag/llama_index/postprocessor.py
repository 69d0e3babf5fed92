"""RefragPostprocessor: marks retrieved passages as compressible."""

from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from refrag_rag.llama_index.nodes import MetadataPlace, mark, passage_text

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag


class RefragPostprocessor(BaseNodePostprocessor):
    """Mark the passages of retrieved nodes as compressible, in LLM mode only.

    Put it last: other postprocessors that read LLM mode would see the markers. Nodes, scores and
    order stay; the LLM alone sees the span. Nodes without text, with media, or empty pass through.

    Parameters
    ----------
    engine
        Without it passages are only marked. With it, those that the store does not know yet are
        encoded here, in one batch, and kept.
    metadata
        What happens to the metadata that nodes show to the LLM: ``compressed`` with the text,
        printed before it as ``text``, or ``drop``.
    """

    metadata: MetadataPlace = Field(
        default="compressed", description="Where the metadata meant for the LLM goes."
    )
    _engine: "Refrag | None" = PrivateAttr(default=None)

    def __init__(
        self, engine: "Refrag | None" = None, metadata: MetadataPlace = "compressed", **data: Any
    ) -> None:
        super().__init__(**{**data, "metadata": metadata})
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised pipelines."""
        return "RefragPostprocessor"

    def __getstate__(self) -> dict[str, Any]:
        """State without the engine: a copy in another process only marks."""
        alone = self.model_copy()
        alone._engine = None
        return super(RefragPostprocessor, alone).__getstate__()

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self._engine is not None:
            passages = (passage_text(item.node, self.metadata) for item in nodes)
            self._engine.precompute([text for text in passages if text is not None])
        return [
            item.model_copy(update={"node": mark(item.node, self.metadata, item.score)})
            for item in nodes
        ]
