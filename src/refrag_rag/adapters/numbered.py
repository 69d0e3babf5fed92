"""Numbered passages: read as vectors, and given back as text to a model that calls ``expand``.

The form is that of LCLM's agents (arXiv 2606.09659): names ``seg_1``, ``seg_2`` ..., and one tool.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from refrag_rag.adapters.engine import check_engine
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.spans import neutralise, strip_spans

NAME = "expand"
DESCRIPTION = (
    "Gives the original text of one context segment. Segments are shown compressed: before you "
    "quote a name, a number or exact words from one, expand it."
)
_ID = re.compile(r"\W*(?:seg(?:ment)?[_ -]?)?0*([1-9][0-9]{0,5})\W*", re.IGNORECASE)
_SHOWN = 50  # characters of what a model asked for, in answers to it
Passage = TypeVar("Passage")


class ExpandArguments(BaseModel):
    """Arguments of the tool, as models see them."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    segment_id: str = Field(description="Name of the segment, such as seg_1.")


class Numbered(ABC, Generic[Passage]):
    """Passages of one conversation under names, and the answers of the tool ``expand``.

    Numbers go on from one `show` to the next; a passage that is shown again keeps its own.

    Parameters
    ----------
    engine
        With it, passages that the store does not have are encoded when they are shown, and the
        model's own markup is harmless in the text that the tool gives.
    max_calls
        Most calls that the tool answers with text, whatever they asked for.

    Attributes
    ----------
    calls : list of str
        What the tool was asked for, in order; clear it for `max_calls` more.

    Raises
    ------
    InputError
        If an argument cannot be used.
    """

    def __init__(self, engine: Refrag | None = None, *, max_calls: int = 8) -> None:
        if engine is not None:
            check_engine(engine)
        if isinstance(max_calls, bool) or not isinstance(max_calls, int) or max_calls < 1:
            raise InputError(f"max_calls = {max_calls!r}; expected at least 1.")
        self.max_calls = max_calls
        self.calls: list[str] = []
        self._markup = None if engine is None else engine.model.config.markup
        self._texts: list[str] = []

    @abstractmethod
    def _marked(self, passages: Sequence[Passage]) -> Sequence[str]:
        """Every passage as a model reads it, marked."""

    def show(self, passages: Sequence[Passage]) -> str:
        """Passages under their names, marked, for a prompt or a tool's result.

        A passage without text is left out.
        """
        shown = []
        for marked in self._marked(passages):
            text = strip_spans(marked)
            if not text.strip():
                continue
            if text not in self._texts:
                self._texts.append(text)
            shown.append(f"seg_{self._texts.index(text) + 1}\n{marked}")
        return "\n\n".join(shown)

    def prompt(self, question: str, passages: Sequence[Passage]) -> str:
        """A user's message: passages and question, laid out as LCLM's agents were trained."""
        return f"Context segments:\n\n{self.show(passages)}\n\nQuestion:\n{question}"

    async def ashow(self, passages: Sequence[Passage]) -> str:
        """Do what `show` does in a thread, since passages may have to be encoded."""
        return await asyncio.to_thread(self.show, passages)

    async def aprompt(self, question: str, passages: Sequence[Passage]) -> str:
        """Do what `prompt` does in a thread."""
        return await asyncio.to_thread(self.prompt, question, passages)

    def expand(self, segment_id: Any = None, **_: Any) -> str:
        """What the tool answers: a passage's text, or a sentence that says why not.

        Markers in it are harmless, as in any text of documents.

        Parameters
        ----------
        segment_id
            ``seg_3``, or the number alone.
        """
        asked = str(segment_id)[:_SHOWN]
        self.calls.append(asked)
        if len(self.calls) > self.max_calls:
            return f"All {self.max_calls} calls are used. Answer from what you have read."
        match = _ID.fullmatch(asked)
        if match and int(match[1]) <= len(self._texts):
            return neutralise(self._texts[int(match[1]) - 1], self._markup)
        known = f"seg_1 to seg_{len(self._texts)}" if self._texts else "none so far"
        return neutralise(f"There is no segment {asked!r}. Segments: {known}.", self._markup)
