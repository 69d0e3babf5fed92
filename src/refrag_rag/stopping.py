"""From new tokens to text: stop strings, and what can already be shown while streaming."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from refrag_rag.answer import FinishReason

INCOMPLETE = "\ufffd"  # a character whose last bytes are still to come


class AnswerText:
    """The growing text of one answer.

    Parameters
    ----------
    tokenizer
        The decoder's tokenizer.
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
        self.text = ""
        self.finish_reason: FinishReason = "length"
        self._shown = 0

    @property
    def stopped(self) -> bool:
        """Whether an end token or a stop string was met."""
        return self.finish_reason == "stop"

    def add(self, token: int) -> None:
        """Take one more token."""
        self.token_ids.append(token)
        if token in self._ends:
            self.finish_reason = "stop"
            return
        shown = [token for token in self.token_ids if token not in self._hidden]
        self.text = str(self._tokenizer.decode(shown, skip_special_tokens=False))
        found = [place for mark in self._stop if (place := self.text.find(mark)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"

    def fresh(self, *, final: bool = False) -> str:
        """Text that has not been shown yet and can no longer change; all of it when `final`."""
        end = len(self.text) if final or self.stopped else len(self.text) - self._held_back()
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held_back(self) -> int:
        text = self.text.rstrip(INCOMPLETE)
        held = len(self.text) - len(text)
        for mark in self._stop:
            for length in range(min(len(mark) - 1, len(text)), 0, -1):
                if text.endswith(mark[:length]):
                    held = max(held, len(self.text) - len(text) + length)
                    break
        return held
