"""RefragPostprocessor: marks retrieved passages as compressible, or shortens them."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from refrag_rag.adapters import NOT_KEPT, check_engine, no_other_process
from refrag_rag.engine.extract import (
    EXTRACTION,
    Output,
    Unchosen,
    check_extraction,
    extract,
    missing_engine,
)
from refrag_rag.errors import StoreError
from refrag_rag.llama_index.errors import visible_errors
from refrag_rag.llama_index.nodes import MetadataPlace, Short, mark, passage_text
from refrag_rag.spans import MARKED

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag

logger = logging.getLogger(__name__)


class RefragPostprocessor(BaseNodePostprocessor):
    """Mark the passages of retrieved nodes as compressible, in LLM mode only.

    Put it last: other postprocessors that read LLM mode would see the markers. Nodes, scores and
    order stay; the LLM alone sees the span. Nodes without text, with media, or empty pass through.

    With ``output="text"`` an LLM that takes only text reads each passage shortened to the chunks
    that the policy would expand, see `refrag_rag.engine.extract`.

    Parameters
    ----------
    engine
        Without it passages are only marked. With it, those that the store does not know yet are
        encoded here, in one batch, and kept.
    metadata
        What happens to the metadata that nodes show to the LLM: ``compressed`` with the text,
        printed before it as ``text``, or ``drop``.
    output
        ``spans`` for `RefragLLM`, ``text`` for others; ``text`` needs an engine.
    p, policy
        For ``text``: the largest fraction of the chunks to keep, of all nodes together, and who
        chooses them. None: the engine's.
    unchosen
        For ``text``: whether a node of which nothing was chosen stays (its text is then ``…``).

    Raises
    ------
    InputError
        If the settings cannot be used.
    """

    model_config = ConfigDict(extra="forbid")

    metadata: MetadataPlace = Field(
        default="compressed", description="Where the metadata meant for the LLM goes."
    )
    output: Output = Field(default="spans", description="Spans, or the chosen chunks as text.")
    p: float | None = Field(default=None, description="Text: fraction of chunks to keep.")
    policy: str | None = Field(default=None, description="Text: who chooses the chunks.")
    unchosen: Unchosen = Field(default="keep", description="Text: nodes without a chosen chunk.")
    _engine: "Refrag | None" = PrivateAttr(default=None)
    _noted: bool = PrivateAttr(default=False)

    def __init__(
        self, engine: "Refrag | None" = None, metadata: MetadataPlace = "compressed", **data: Any
    ) -> None:
        if engine is not None:
            check_engine(engine)
        check_extraction(engine, **{name: data[name] for name in EXTRACTION if name in data})
        super().__init__(**{**data, "metadata": metadata})
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised pipelines."""
        return "RefragPostprocessor"

    def __getstate__(self) -> dict[str, Any]:
        """State for another process.

        Raises
        ------
        InputError
            If there is an engine, which cannot go there.
        """
        if self._engine is not None:
            raise no_other_process()
        return super().__getstate__()

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = [passage_text(item.node, self.metadata) for item in nodes]
        if self.output == "text":
            question = query_bundle.query_str if query_bundle is not None else ""
            return self._shortened(nodes, passages, question)
        if not self._noted:
            self._noted = True
            logger.info(MARKED)
        if self._engine is not None:
            try:
                self._engine.precompute([text for text in passages if text is not None])
            except StoreError as error:  # they are encoded with the answer
                logger.error(NOT_KEPT, error)
        return [
            item.model_copy(update={"node": mark(item.node, self.metadata, item.score)})
            for item in nodes
        ]

    def _shortened(
        self, nodes: Sequence[NodeWithScore], passages: Sequence[str | None], question: str
    ) -> list[NodeWithScore]:
        if self._engine is None:
            raise missing_engine()
        found = [(item, text) for item, text in zip(nodes, passages, strict=True) if text]
        with visible_errors():
            extracts = extract(
                self._engine,
                [text for _, text in found],
                question,
                p=self.p,
                policy=self.policy,
                scores=[item.score for item, _ in found],
            )
        shortened = []
        left = iter(extracts)
        for item, text in zip(nodes, passages, strict=True):
            if not text:
                shortened.append(item)
                continue
            one = next(left)
            if one.kept or self.unchosen == "keep":
                node = mark(item.node, self.metadata, item.score, Short(text, one.text))
                shortened.append(item.model_copy(update={"node": node}))
        return shortened
