"""Scores of chunks that the decoder makes, for policies: computed once, then kept in the store."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.model.fingerprint import State, digest_weights, weights_state
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.text.tokenization import PlainTokenizer, description

READ_AT_ONCE = 2048  # decoder positions; the logits of more would take gigabytes
LOGITS_AT_ONCE = 256  # positions whose logits are turned to float32


@dataclass(frozen=True)
class Stretch:
    """Tokens ``[start, stop)`` of a passage, read at once; those from `fresh` on are scored."""

    passage: int
    start: int
    fresh: int
    stop: int


class Perplexity:
    """Mean negative log-likelihood (nats) of each chunk's tokens, given the passage before them.

    The decoder reads the passage as plain text, behind a BOS token if its tokenizer adds one;
    otherwise nothing foretells the passage's first token, and it does not count. A chunk in which
    no token counts has NaN. A passage that is longer than the window is read in stretches; each
    begins with half a window that was read before.

    Attributes
    ----------
    name
        Under which the store keeps the score. It tells which decoder made it, since the store's
        namespace does not. Finding it reads all weights once.
    """

    def __init__(self, model: RefragModel) -> None:
        self.name = f"perplexity.{decoder_fingerprint(model)}"
        self._model, self._tokenizer = model, PlainTokenizer(model.tokenizer)
        self._first = _added_in_front(model.tokenizer)
        # Tokens of a passage that are read at once.
        self._window = max(2, min(model.max_positions, READ_AT_ONCE) - len(self._first))

    def score(self, passages: Sequence[ChunkedPassage]) -> list[NDArray[np.float32]]:
        """One array of *shape* (L,) a passage; batches are sorted by length."""
        encoded = [self._encode(passage) for passage in passages]
        losses = [np.full(len(ids), np.nan, np.float32) for ids, _ in encoded]
        parts = [
            part for place, (ids, _) in enumerate(encoded)
            for part in stretches(place, len(ids), self._window)
        ]  # fmt: skip
        for batch in batches(parts, READ_AT_ONCE, around=len(self._first)):
            rows = [(*self._first, *encoded[p.passage][0][p.start : p.stop]) for p in batch]
            for part, read in zip(batch, self._losses(rows), strict=True):
                losses[part.passage][part.fresh : part.stop] = read[part.fresh - part.stop :]
        return [
            chunk_means(one, offsets, passage)
            for one, (_, offsets), passage in zip(losses, encoded, passages, strict=True)
        ]

    def _encode(
        self, passage: ChunkedPassage
    ) -> tuple[Sequence[int], Sequence[tuple[int, int]] | None]:
        """The decoder's ids; with offsets, unless they are the chunks' own."""
        if self._model.config.decoder_reads_ids:
            return passage.token_ids, None
        return self._tokenizer.encode(passage.text)

    @torch.inference_mode()
    def _losses(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Losses of each row's tokens, NaN for the first, which nothing stands before."""
        tensors = [torch.tensor(row) for row in rows]
        ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=self._model.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        device = self._model.device
        logits: Tensor = self._model.decoder(
            input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False
        ).logits  # (B, T, vocabulary)
        targets = ids[:, 1:].to(logits.device)
        found = np.full(ids.shape, np.nan, np.float32)
        for start in range(0, targets.shape[1], LOGITS_AT_ONCE):
            wanted = targets[:, start : start + LOGITS_AT_ONCE]
            given = logits[:, start : start + wanted.shape[1]].float()
            loss = nn.functional.cross_entropy(given.transpose(1, 2), wanted, reduction="none")
            found[:, start + 1 : start + 1 + wanted.shape[1]] = loss.cpu().numpy()
        return [values[: len(row)] for values, row in zip(found, rows, strict=True)]


def decoder_fingerprint(model: RefragModel) -> str:
    """Names what the decoder's scores depend on: its weights and tokenizer."""
    return digest_weights(model.decoder.state_dict(), description(model.tokenizer), length=16)


def stretches(passage: int, count: int, window: int) -> Iterator[Stretch]:
    """Stretches of at most `window` of `count` tokens; together they score every token once."""
    start = fresh = 0
    while fresh < count:
        stop = min(start + window, count)
        yield Stretch(passage, start, fresh, stop)
        start, fresh = stop - window // 2, stop


def batches(parts: Sequence[Stretch], size: int, *, around: int) -> Iterator[list[Stretch]]:
    """Stretches of like length, together at most `size` positions with `around` more for each."""
    batch: list[Stretch] = []
    for part in sorted(parts, key=lambda part: part.stop - part.start):
        if batch and (len(batch) + 1) * (part.stop - part.start + around) > size:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def chunk_means(
    losses: NDArray[np.float32],
    offsets: Sequence[tuple[int, int]] | None,
    passage: ChunkedPassage,
) -> NDArray[np.float32]:
    """Means over the chunks' tokens, NaN where none counts.

    Parameters
    ----------
    losses
        *Shape:* (n,), NaN for tokens that do not count.
    offsets
        Characters of n tokens of another tokenizer; a token that lies in two chunks counts for
        each by its share of characters. None: the chunks' own tokens.

    Returns
    -------
    ndarray
        *Shape:* (L,), float32.
    """
    chunks = len(passage)
    if not chunks:
        return np.empty(0, np.float32)
    if offsets is None:
        tokens = np.arange(len(losses))
        rows, weights = np.repeat(np.arange(chunks), passage.chunk_lengths), np.ones(len(losses))
    else:
        tokens, rows, weights = _shares(offsets, passage.char_ends)
    weights = np.where(np.isnan(losses[tokens]), 0, weights)
    sums = np.bincount(rows, weights * np.nan_to_num(losses[tokens]), minlength=chunks)
    totals = np.bincount(rows, weights, minlength=chunks)
    means: NDArray[Any] = np.divide(sums, totals, out=np.full(chunks, np.nan), where=totals > 0)
    return means.astype(np.float32)


def _shares(
    offsets: Sequence[tuple[int, int]], char_ends: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Token, chunk and share of the token's characters, for every pair that meets."""
    first, last = np.array(offsets, np.intp).reshape(-1, 2).T
    last = np.maximum(last, first + 1)  # a token without characters stands at one place
    ends = np.array(char_ends, np.intp)
    left, right = (
        np.searchsorted(ends, place, side="right").clip(max=len(ends) - 1)
        for place in (first, last - 1)
    )
    meets = right - left + 1  # chunks that a token lies in
    tokens = np.repeat(np.arange(len(first)), meets)
    rows = left[tokens] + np.arange(len(tokens)) - (np.cumsum(meets) - meets)[tokens]
    begins = np.concatenate([[0], ends[:-1]])
    shared = np.minimum(last[tokens], ends[rows]) - np.maximum(first[tokens], begins[rows])
    return tokens, rows, np.maximum(shared, 0) / (last - first)[tokens]


def _added_in_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The BOS token, if the tokenizer puts it before a text."""
    ids: list[int] = tokenizer("").input_ids
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


SCORERS = {"perplexity": Perplexity}


class Scorers:
    """The scorers of one model, each built when it is first used: that reads the decoder's weights.

    When these have changed, it is built anew. Threads may share it.
    """

    def __init__(self, model: RefragModel) -> None:
        self._model = model
        self._built: dict[str, tuple[State, Perplexity]] = {}
        self._lock = threading.Lock()

    def stored_name(self, name: str) -> str:
        """Under which the store keeps a score, of ours or of somebody's."""
        return self._scorer(name).name if name in SCORERS else name

    def score(self, name: str, passages: Sequence[ChunkedPassage]) -> list[NDArray[np.float32]]:
        """One array of *shape* (L,) a passage.

        Raises
        ------
        InputError
            If it is not one of ours.
        """
        if name not in SCORERS:
            raise InputError(
                f"{len(passages)} passages have no score {name!r}, which the policy needs; "
                f"expected one of {', '.join(SCORERS)}, or that the store has it. Put it into the "
                "entries of the store first."
            )
        return self._scorer(name).score(passages)

    def _scorer(self, name: str) -> Perplexity:
        state = weights_state(self._model.decoder)
        with self._lock:
            if name not in self._built or self._built[name][0] != state:
                self._built[name] = (state, SCORERS[name](self._model))
            return self._built[name][1]
