"""From new tokens to text: stop strings, and what can already be shown while streaming."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from refrag_rag.generation.answer import FinishReason

INCOMPLETE = "\ufffd"  # a character whose last bytes are still to come
LATEST = 8  # tokens after which it is shown as it is


class AnswerText:
    """The growing text of one answer. Each token costs the same, however long the answer is.

    New tokens are decoded behind the one before them, which says how their text begins.

    Parameters
    ----------
    ends
        Ids of end tokens, which are not shown.
    stop
        Strings at which the answer is cut.
    kept
        Special tokens that are shown all the same.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        stop: Sequence[str],
        kept: Sequence[str] = (),
    ) -> None:
        self._tokenizer, self._ends, self._stop = tokenizer, ends, tuple(stop)
        added = tokenizer.added_tokens_decoder.items()
        self._hidden = {i for i, token in added if token.special and token.content not in kept}
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason = "length"
        self._shown: list[str] = []
        self._rest = ""  # complete, and not shown yet
        self._new = ""  # not complete yet
        self._context: list[int] = []  # the tokens before those of `_new`
        self._window: list[int] = []  # `_context`, and the tokens of `_new`

    @property
    def text(self) -> str:
        """All of it."""
        return "".join((*self._shown, self._rest, self._new))

    @property
    def stopped(self) -> bool:
        """Whether an end token or a stop string was met."""
        return self.finish_reason == "stop"

    def add(self, token: int) -> None:
        """Take one more token."""
        self.token_ids.append(token)
        if token in self._ends:
            self.finish_reason = "stop"
        elif token not in self._hidden:
            self._window.append(token)
            self._decode()
            self._look_for_stop()

    def fresh(self, *, final: bool = False) -> str:
        """Text that has not been shown yet and can no longer change; all of it when `final`."""
        if final or self.stopped:
            self._rest, self._new = self._rest + self._new, ""
            end = len(self._rest)
        else:
            end = len(self._rest) - self._held_back()
        piece, self._rest = self._rest[:end], self._rest[end:]
        self._shown.append(piece)
        return piece

    def _decode(self) -> None:
        known = self._read(self._context)
        self._new = self._read(self._window)[len(known) :]
        waiting = len(self._window) - len(self._context)
        if not self._new.endswith(INCOMPLETE) or waiting >= LATEST:
            self._rest, self._new = self._rest + self._new, ""
            self._context = self._window[-waiting:]
            self._window = list(self._context)

    def _read(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _look_for_stop(self) -> None:
        text = self._rest + self._new
        found = [place for mark in self._stop if (place := text.find(mark)) >= 0]
        if found:
            self._rest, self._new = text[: min(found)], ""
            self.finish_reason = "stop"

    def _held_back(self) -> int:
        """Characters at the end that may begin a stop string."""
        begun = (mark[:length] for mark in self._stop for length in range(1, len(mark)))
        return max((len(one) for one in begun if self._rest.endswith(one)), default=0)
