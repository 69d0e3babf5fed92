"""Passages at indexing and behind a retriever: precomputed, marked, or shortened."""

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from refrag_rag.adapters.engine import check_engine, no_other_process
from refrag_rag.engine import Refrag
from refrag_rag.engine.extract import (
    EXTRACTION,
    Extract,
    Output,
    Unchosen,
    check_extraction,
    extract,
)
from refrag_rag.errors import StoreError
from refrag_rag.spans import MARKED

logger = logging.getLogger(__name__)
NOT_KEPT = (
    "Passages are indexed, but their chunk embeddings are not kept: %s They are encoded when they "
    "are first asked for, which makes those answers slower. Mend the store and precompute again."
)


def keep(engine: Refrag, texts: Sequence[str], **settings: Any) -> None:
    """Precompute passages, where a store that cannot be written must not stop the work.

    That is logged as an error, since the store only makes answers quicker.
    """
    try:
        engine.precompute([text for text in texts if text], **settings)
    except StoreError as error:
        logger.error(NOT_KEPT, error)


class PassageStep(BaseModel):
    """Mixin of what stands between a retriever and a model: marks passages, or shortens them.

    Settings that cannot be used are an `InputError`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    engine: Any = Field(default=None, exclude=True, repr=False)
    output: Output = Field(default="spans", description="Spans, or the chosen chunks as text.")
    p: float | None = Field(default=None, description="Text: fraction of chunks to keep.")
    policy: Any = Field(default=None, description="Text: name or policy that chooses the chunks.")
    unchosen: Unchosen = Field(default="keep", description="Text: passages with nothing chosen.")
    _noted: bool = PrivateAttr(default=False)

    def __init__(self, engine: Refrag | None = None, **data: Any) -> None:
        if engine is not None:
            check_engine(engine)
        check_extraction(engine, **{name: data[name] for name in EXTRACTION if name in data})
        super().__init__(engine=engine, **data)

    def __getstate__(self) -> dict[Any, Any]:
        """State for another process, where an engine cannot go (`InputError`)."""
        if self.engine is not None:
            raise no_other_process()
        return super().__getstate__()

    def _prepare_to_mark(self, texts: Sequence[str]) -> None:
        """Say once what other models read; encode what the store has not."""
        if not self._noted:
            self._noted = True
            logger.info(MARKED)
        if self.engine is not None and texts:
            keep(self.engine, texts)

    def _shorten(
        self, texts: Sequence[str], question: str, scores: Sequence[float | None]
    ) -> list[Extract]:
        return extract(self.engine, texts, question, p=self.p, policy=self.policy, scores=scores)

    def _stays(self, one: Extract) -> bool:
        """Whether a shortened passage goes on to the model; one without words always does."""
        return bool(one.kept or not one.chunks or self.unchosen == "keep")
