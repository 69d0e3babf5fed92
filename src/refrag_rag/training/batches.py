"""Examples to rows, rows to tensors: pieces of text, which chunks are vectors, labels, weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from refrag_rag.text.chunking import ChunkedPassage

IGNORED = -100


@dataclass(frozen=True)
class Piece:
    """A run of tokens, what the loss on them weighs, and whether it may be compressed.

    An example is a list of pieces. Passages are pieces of their own, tokenised alone, exactly as
    the engine treats spans, so that any share of their chunks can be handed over as vectors.

    Attributes
    ----------
    ids
        In the decoder's vocabulary.
    weight
        Of the loss on each of these tokens, 0 for none.
    target
        Whether accuracy, distillation and rewards count these tokens: the gold ones.
    chunked
        Of a passage: its chunks, each of which may stand as a vector.
    retrieval
        Of a passage: its retrieval score, if it is known.
    """

    ids: Sequence[int]
    weight: float = 0.0
    target: bool = False
    chunked: ChunkedPassage | None = None
    retrieval: float | None = None


def gold(ids: Sequence[int]) -> Piece:
    """Tokens that are to be said: targets of full weight."""
    return Piece(ids, 1.0, target=True)


def passages_of(pieces: Sequence[Piece]) -> list[ChunkedPassage]:
    """The passages among pieces."""
    return [piece.chunked for piece in pieces if piece.chunked is not None]


@dataclass(frozen=True)
class Row:
    """One example as the decoder will read it: T positions.

    Attributes
    ----------
    ids
        T token ids; 0 where a vector stands.
    vectors
        T times whether a vector stands there.
    weights
        T weights of the loss on each token, 0 for none.
    targets
        T times whether accuracy, distillation and rewards count the token.
    passages
        The passages of which chunks stand as vectors.
    chosen
        For all chunks of `passages`: whether it is a vector.
    pieces
        What was laid out: from it the same example can be laid out differently.
    origin
        Where the example comes from, for messages.
    """

    ids: tuple[int, ...]
    vectors: tuple[bool, ...]
    weights: tuple[float, ...]
    targets: tuple[bool, ...]
    passages: tuple[ChunkedPassage, ...]
    chosen: tuple[bool, ...]
    pieces: tuple[Piece, ...] = ()
    origin: str = ""

    @property
    def weight(self) -> float:
        """Of all tokens that count; the first has none before it to be predicted from."""
        return sum(self.weights[1:])

    @property
    def tokens(self) -> int:
        """Positions that it takes."""
        return len(self.ids)

    def silent(self) -> "Row":
        """The same row without any loss: it fills a place where a process has too few."""
        count = len(self.ids)
        return replace(self, weights=(0.0,) * count, targets=(False,) * count)

    def target_ids(self) -> tuple[int, ...]:
        """The tokens that are targets."""
        return tuple(id_ for id_, target in zip(self.ids, self.targets, strict=True) if target)


@dataclass(frozen=True)
class Batch:
    """One forward pass's tensors. V vectors stand in the batch in reading order.

    Attributes
    ----------
    input_ids
        *Shape:* (B, T), int64; 0 where a vector stands and in the padding.
    vector_mask
        *Shape:* (B, T), bool; where the V vectors stand.
    attention_mask
        *Shape:* (B, T), int64; right padding.
    labels, weights
        *Shape:* (B, T); the token to predict at each position from the one before.
    targets
        *Shape:* (B, T), bool; which of these tokens are targets.
    passages
        Those that have vectors, for the encoder.
    chosen
        *Shape:* (sum of L,), bool; which chunks of `passages` are vectors.
    """

    input_ids: Tensor
    vector_mask: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor
    targets: Tensor
    passages: tuple[ChunkedPassage, ...]
    chosen: Tensor


def arrange(
    example: Sequence[Piece], expanded: Sequence[Sequence[bool]] | None, *, origin: str = ""
) -> Row:
    """Lay out one example with given expansions.

    Parameters
    ----------
    expanded
        For each passage, for each of its chunks, whether it stays text. None: all of them.
    """
    ids: list[int] = []
    vectors: list[bool] = []
    weights: list[float] = []
    targets: list[bool] = []
    passages: list[ChunkedPassage] = []
    chosen: list[bool] = []
    left = iter(expanded or ())
    for piece in example:
        parts = [(tuple(piece.ids), True)]
        if piece.chunked is not None and expanded is not None:
            mask = next(left)
            passages.append(piece.chunked)
            chosen += [not as_text for as_text in mask]
            parts = list(zip(piece.chunked.chunk_ids(), mask, strict=True))
        for part, as_text in parts:
            count = len(part) if as_text else 1
            ids += part if as_text else (0,)
            vectors += [not as_text] * count
            weights += [piece.weight if as_text else 0.0] * count
            targets += [piece.target and as_text] * count
    laid_out = (tuple(ids), tuple(vectors), tuple(weights), tuple(targets))
    return Row(*laid_out, tuple(passages), tuple(chosen), tuple(example), origin)


def collate(rows: Sequence[Row]) -> Batch:
    """Pad rows on the right to one batch."""
    length = max(len(row.ids) for row in rows)

    def padded(values: Sequence[float], filler: float) -> list[float]:
        return [*values, *[filler] * (length - len(values))]

    ids = torch.tensor([padded(row.ids, -1) for row in rows])  # (B, T)
    weights = torch.tensor([padded(row.weights, 0.0) for row in rows])  # (B, T)
    return Batch(
        input_ids=ids.clamp(min=0),
        vector_mask=torch.tensor([padded(row.vectors, False) for row in rows]),
        attention_mask=(ids >= 0).long(),
        labels=ids.masked_fill((weights == 0) | (ids < 0), IGNORED),
        weights=weights,
        targets=torch.tensor([padded(row.targets, False) for row in rows]),
        passages=tuple(passage for row in rows for passage in row.passages),
        chosen=torch.tensor([c for row in rows for c in row.chosen], dtype=torch.bool),
    )


def share_of(rows: Sequence[Any], *, process: int, processes: int, size: int) -> list[list[Any]]:
    """What one of several processes reads of a global batch, cut into micro-batches.

    All processes get as many micro-batches of as many rows, since they compute together; silent
    rows fill the gaps. Rows of about one length come together, so that little is padded.
    """
    per_process = -(-len(rows) // processes)
    count = -(-per_process // size)
    own = list(sorted(rows, key=attrgetter("tokens"))[process::processes])
    own += [rows[0].silent()] * (per_process - len(own))
    step = -(-per_process // count)
    return [own[start : start + step] for start in range(0, per_process, step)]
