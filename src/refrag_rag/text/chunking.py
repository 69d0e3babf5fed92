"""Passages to chunks of at most k tokens. Joined, the chunks are the passage's tokens exactly."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from refrag_rag.config import RefragConfig
from refrag_rag.text.tokenization import PlainTokenizer, sentence_ends


@dataclass(frozen=True)
class ChunkedPassage:
    """A passage cut into L chunks.

    Attributes
    ----------
    text
        The passage.
    token_ids
        All n token ids, in the chunking tokenizer.
    chunk_lengths
        L token counts, each between 1 and k; their sum is n. With ``even`` chunking some may be 0,
        with ``passage`` chunking the only one is n.
    char_ends
        L character positions; chunk i is ``text[char_ends[i - 1]:char_ends[i]]``.
    """

    text: str
    token_ids: tuple[int, ...]
    chunk_lengths: tuple[int, ...]
    char_ends: tuple[int, ...]

    def __len__(self) -> int:
        """Number of chunks, L."""
        return len(self.chunk_lengths)

    def chunk_ids(self) -> list[tuple[int, ...]]:
        """Token ids chunk by chunk."""
        ends = list(accumulate(self.chunk_lengths))
        return [self.token_ids[a:b] for a, b in zip((0, *ends), ends, strict=False)]

    def chunk_texts(self) -> list[str]:
        """Text chunk by chunk; joined, it is the passage."""
        return cut_text(self.text, self.char_ends)


def cut_text(text: str, ends: Sequence[int]) -> list[str]:
    """Cut a text at character positions."""
    return [text[a:b] for a, b in zip((0, *ends), ends, strict=False)]


class Chunker:
    """Cuts passages by the k and the chunking mode of a config, with the chunking tokenizer."""

    def __init__(self, tokenizer: PlainTokenizer, config: RefragConfig) -> None:
        self._tokenizer = tokenizer
        self._k, self._chunking, self._window = config.k, config.chunking, config.window

    def chunk(self, text: str, *, k: int | None = None) -> ChunkedPassage:
        """Cut one passage. A character is never split, so a chunk may end before k tokens.

        Except with ``exact`` chunking, and where k tokens are too few for a character: then it
        goes, as text, with its first token.

        Parameters
        ----------
        k
            Most tokens of a chunk, if not the config's; not for ``passage``, ``even`` and
            ``levelled``.
        """
        ids, offsets = self._tokenizer.encode(text)
        ends = sentence_ends(text) if self._chunking == "sentence" else []
        by_count = {"even": self._even, "levelled": self._levelled}.get(self._chunking)
        lengths = list(
            by_count(len(ids)) if by_count else self._lengths(offsets, ends, k or self._k)
        )
        char_ends = [offsets[end - 1][1] for end in accumulate(lengths)]
        if char_ends:
            char_ends[-1] = len(text)  # what the tokenizer drops at the end stays with its chunk
        return ChunkedPassage(text, tuple(ids), tuple(lengths), tuple(char_ends))

    def _even(self, tokens: int) -> Iterator[int]:
        count = self._window // self._k
        for start in range(0, tokens, self._window):
            yield from _shared_out(min(self._window, tokens - start), count)

    def _levelled(self, tokens: int) -> Iterator[int]:
        for start in range(0, tokens, self._window):
            inside = min(self._window, tokens - start)
            whole, left = divmod(inside, self._k)
            yield from _shared_out(inside, whole + bool(left))
        if tokens:
            yield 0

    def _lengths(
        self, offsets: Sequence[tuple[int, int]], ends: Sequence[int], k: int
    ) -> Iterator[int]:
        whole, start = self._chunking != "exact", 0
        if self._chunking == "passage":
            k = max(1, len(offsets))
        while start < len(offsets):
            stop = min(start + k, len(offsets))
            while whole and start + 1 < stop < len(offsets) and _splits(offsets, stop):
                stop -= 1
            if ends:
                stop = _sentence_stop(offsets, start, stop, ends)
            yield stop - start
            start = stop


def _shared_out(tokens: int, count: int) -> Iterator[int]:
    """Lengths of chunks that are as equal as can be, the longer ones first."""
    each, more = divmod(tokens, count)
    return (each + (place < more) for place in range(count))


def _splits(offsets: Sequence[tuple[int, int]], stop: int) -> bool:
    """Whether a cut before token `stop` falls inside a character."""
    return offsets[stop][0] < offsets[stop - 1][1]


def _sentence_stop(
    offsets: Sequence[tuple[int, int]], start: int, stop: int, ends: Sequence[int]
) -> int:
    """The first cut in ``(start, stop]`` at which the next token opens a sentence."""
    for cut in range(start + 1, stop):
        place = bisect_left(ends, offsets[cut - 1][1])
        opens = place < len(ends) and ends[place] <= offsets[cut][1] - 1
        if opens and not _splits(offsets, cut):
            return cut
    return stop
