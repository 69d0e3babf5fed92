"""Windows: what the encoder reads at once, and which of its states make up a chunk."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from refrag_rag.config import RefragConfig
from refrag_rag.errors import InputError
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.text.tokenization import PlainTokenizer

JOINED = ("concat", "linear")  # poolings that read a chunk's states side by side


@dataclass(frozen=True)
class Window:
    """What the encoder reads at once. The places of a chunk lie one behind the other.

    Attributes
    ----------
    ids
        W token ids in the encoder's vocabulary.
    starts, lengths
        For every chunk, its first place in `ids`, and how many places it has.
    weights
        Of the places of all chunks, in order; None: those of a chunk count alike.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    weights: tuple[float, ...] | None = None


class WindowBatch(NamedTuple):
    """Windows as tensors: B windows, padded on the right to W tokens, of which C chunks are read.

    Attributes
    ----------
    ids
        *Shape:* (B, W), int64.
    mask
        *Shape:* (B, W), bool; False in the padding.
    places
        *Shape:* (C, P), int64; the states of a chunk, counted over all B * W.
    weights
        *Shape:* (C, P), float32; of these states, 0 behind a shorter chunk.
    """

    ids: Tensor
    mask: Tensor
    places: Tensor
    weights: Tensor


class WindowCutter:
    """Passages to windows, windows to tensors: what comes before the encoder, without its weights.

    Parameters
    ----------
    tokenizer
        The encoder's.
    limit
        Most tokens that the encoder reads.
    first
        Tokens before every window, with ``cls`` pooling.
    marker
        See `id_windows`.
    """

    def __init__(
        self,
        config: RefragConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        limit: int,
        first: tuple[int, ...],
        marker: int,
    ) -> None:
        self.config, self.limit = config, limit
        self._tokenizer, self._first, self._marker = tokenizer, first, marker

    def cut(self, passage: ChunkedPassage) -> Iterator[Window]:
        """Group a passage's chunks into windows, closed at the encoder's own limit too."""
        if self.config.chunking == "passage":
            return self._whole(passage)
        if self.config.pooling == "memory":
            return self._remembered(passage)
        if self.config.encoder_reads_ids:
            return id_windows(passage, self.config, limit=self.limit, marker=self._marker)
        return text_windows(passage, self.config, self._plain, limit=self.limit)

    def _whole(self, passage: ChunkedPassage) -> Iterator[Window]:
        """A passage as a retriever reads it, between special tokens and cut off behind the most."""
        if not len(passage):
            return
        before, behind = self.around
        ids = passage.token_ids
        if not self.config.encoder_reads_ids:
            ids = tuple(self._plain.encode(passage.text)[0])
        most = max(1, min(self.config.k, self.limit) - len(before) - len(behind))
        whole = (*before, *ids[:most], *behind)
        first = len(whole) - 1 if self.config.pooling == "last" else 0
        yield Window(whole, (first,), (len(whole) if self.config.pooling == "mean" else 1,))

    def _remembered(self, passage: ChunkedPassage) -> Iterator[Window]:
        """Windows between special tokens, of which the last, one a chunk, are read."""
        before, behind = self.around
        size = self.config.window
        count = size // self.config.k
        for start in range(0, len(passage.token_ids), size):
            ids = (*before, *passage.token_ids[start : start + size], *behind)
            yield Window(ids, tuple(range(len(ids) - count, len(ids))), (1,) * count)

    def stack(
        self,
        windows: Sequence[Window],
        *,
        chosen: ArrayLike | None = None,
        multiple: int = 1,
    ) -> WindowBatch:
        """Windows as tensors.

        Parameters
        ----------
        chosen
            For the chunks of all windows, whether they are wanted: windows without any are left
            out. None: all of them.
        multiple
            W is a multiple of it, as far as the encoder reads so many tokens.
        """
        wanted = np.ones(sum(len(w.starts) for w in windows), bool)
        if chosen is not None:
            wanted = np.asarray(chosen, bool)
            ends = np.cumsum([len(window.starts) for window in windows])
            parts = np.split(wanted, ends[:-1])
            used = [(w, part) for w, part in zip(windows, parts, strict=True) if part.any()]
            windows, wanted = [w for w, _ in used], np.concatenate([part for _, part in used])
        added = len(self._first)
        lengths = np.array([len(window.ids) for window in windows]) + added  # (B,)
        width = min(-(-lengths.max() // multiple) * multiple, self.limit + added)
        mask = np.arange(width) < lengths[:, None]  # (B, W)
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = _flat([(*self._first, *window.ids) for window in windows])
        counts = np.array([len(window.starts) for window in windows])  # (B,)
        rows = np.repeat(np.arange(len(windows)) * width, counts)  # (all chunks,)
        places, weights = self._places(windows, rows)
        places = np.minimum(places, mask.size - 1)  # behind the last chunk: any, it counts nothing
        found = (ids, mask, places[wanted], weights[wanted].astype(np.float32))
        return WindowBatch(*map(torch.from_numpy, found))

    def _places(
        self, windows: Sequence[Window], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places and weights of all chunks, each *shape* (all chunks, P)."""
        if self._first:  # one chunk a window, whose first state stands for it
            return rows[:, None], np.ones((len(rows), 1))
        lengths = _flat([window.lengths for window in windows])
        # states side by side have room for k, weighted ones for what there is
        most = self.config.k if self.config.pooling in JOINED else int(lengths.max())
        there = np.arange(most) < lengths[:, None]  # (all chunks, P)
        weights = there / np.maximum(lengths, 1)[:, None]
        if windows[0].weights is not None:
            weights[there] = [value for window in windows for value in window.weights or ()]
        starts = rows + _flat([window.starts for window in windows])
        return starts[:, None] + np.arange(most), weights

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        plain = self._tokenizer("a", add_special_tokens=False).input_ids
        marked = self._tokenizer("a").input_ids
        start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        return marked[:start], marked[start + len(plain) :]

    @cached_property
    def _plain(self) -> PlainTokenizer:
        """Made on first use: encoders that read the chunks' ids never need it."""
        return PlainTokenizer(self._tokenizer)


def _flat(groups: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(groups), np.int64)


def id_windows(
    passage: ChunkedPassage, config: RefragConfig, *, limit: int, marker: int
) -> Iterator[Window]:
    """Windows of chunk ids that the encoder reads as they are.

    Parameters
    ----------
    limit
        Most tokens that the encoder reads.
    marker
        The token whose states are read with ``eos`` pooling: one for each chunk, at the end of the
        window.
    """
    done = 0
    for first, last in groups(passage.chunk_lengths, room(config, limit)):
        lengths = passage.chunk_lengths[first:last]
        stop = done + sum(lengths)
        start = max(0, done - config.overlap)
        right = stop if config.mask == "causal" else stop + config.overlap
        ids = passage.token_ids[start:right]
        if config.pooling == "eos":
            count = len(lengths)
            places = tuple(range(len(ids), len(ids) + count))
            yield Window((*ids, *[marker] * count), places, (1,) * count)
        else:
            starts = accumulate(lengths[:-1], initial=done - start)
            yield Window(tuple(ids), tuple(starts), lengths)
        done = stop


def room(config: RefragConfig, limit: int) -> int:
    """Tokens of chunks in a window of an encoder that reads `limit` tokens."""
    context = config.overlap * (1 if config.mask == "causal" else 2)
    markers = -(-config.window // config.k) if config.pooling == "eos" else 0
    return min(config.window, limit - context - markers)


def text_windows(
    passage: ChunkedPassage, config: RefragConfig, tokenizer: PlainTokenizer, *, limit: int
) -> Iterator[Window]:
    """Windows of text that the encoder reads with its own tokenizer, pooled by characters.

    Raises
    ------
    InputError
        If one chunk alone is longer than the encoder's limit.
    """
    texts = passage.chunk_texts()
    for first, last in groups(passage.chunk_lengths, config.window):
        yield from _fitting(texts[first:last], tokenizer, limit)


def groups(lengths: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of chunks that hold at most `size` tokens together."""
    first, total = 0, 0
    for place, length in enumerate(lengths):
        if total and total + length > size:
            yield first, place
            first, total = place, 0
        total += length
    if total:
        yield first, len(lengths)


def _fitting(texts: Sequence[str], tokenizer: PlainTokenizer, limit: int) -> Iterator[Window]:
    ids, offsets = tokenizer.encode("".join(texts))
    if len(ids) <= limit:
        yield Window(tuple(ids), *_overlaps(texts, offsets))
    elif len(texts) > 1:
        middle = len(texts) // 2
        yield from _fitting(texts[:middle], tokenizer, limit)
        yield from _fitting(texts[middle:], tokenizer, limit)
    else:
        raise InputError(
            f"One chunk takes {len(ids)} encoder tokens; the encoder reads {limit}. "
            "Use a smaller k or another encoder."
        )


def _overlaps(
    texts: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Starts, lengths and weights: the characters that tokens share with each chunk, of its all."""
    start, starts, lengths, weights = 0, [], [], []
    for text in texts:
        end = start + len(text)
        shared = [max(0, min(b, end) - max(a, start)) for a, b in offsets]
        places = [i for i, count in enumerate(shared) if count]
        first, last = (places[0], places[-1] + 1) if places else (0, 0)
        starts.append(first)
        lengths.append(last - first)
        weights += [count / sum(shared) for count in shared[first:last]]
        start = end
    return tuple(starts), tuple(lengths), tuple(weights)
