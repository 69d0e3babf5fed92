"""Examples to rows, rows to tensors: which chunks become vectors, labels and loss weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from random import Random
from typing import Any

import torch
from torch import Tensor

from refrag_rag.chunking import ChunkedPassage
from refrag_rag.training.tasks import CHOICE_WEIGHT, Mark, Piece

IGNORED = -100


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
    passages
        The passages of which chunks stand as vectors.
    chosen
        For all chunks of `passages`: whether it is a vector.
    links
        Pairs of positions: where a token of a value is to come next, and where it can be read.
    pieces, k
        What was laid out: from it the same example can be laid out differently.
    origin
        Where the example comes from, for messages.
    """

    ids: tuple[int, ...]
    vectors: tuple[bool, ...]
    weights: tuple[float, ...]
    passages: tuple[ChunkedPassage, ...]
    chosen: tuple[bool, ...]
    links: tuple[tuple[int, int], ...] = ()
    pieces: tuple[Piece, ...] = ()
    k: int = 8
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
        return replace(self, weights=(0.0,) * len(self.weights), links=())


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
    passages
        Those that have vectors, for the encoder.
    chosen
        *Shape:* (sum of L,), bool; which chunks of `passages` are vectors.
    links
        *Shape:* (N, 3), int64; a row, and two positions of it as in `Row.links`.
    """

    input_ids: Tensor
    vector_mask: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor
    passages: tuple[ChunkedPassage, ...]
    chosen: Tensor
    links: Tensor


def lay_out(
    examples: Sequence[Sequence[Piece]], rng: Random, *, k: int = 8, text_share: float = 1.0
) -> list[Row]:
    """Decide for every chunk; it stays text with probability `text_share`.

    One batch in four decides for whole passages instead of chunks, since policies often expand
    most of one passage.
    """
    whole = rng.random() < 0.25
    rows = []
    for example in examples:
        masks = []
        for piece in example:
            if piece.passage and text_share < 1:
                passage_as_text = rng.random() < text_share
                count = len(_chunks(piece, k))
                masks.append(
                    [passage_as_text if whole else rng.random() < text_share for _ in range(count)]
                )
        rows.append(arrange(example, masks if text_share < 1 else None, k=k))
    return rows


def arrange(
    example: Sequence[Piece],
    expanded: Sequence[Sequence[bool]] | None,
    *,
    k: int = 8,
    origin: str = "",
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
    passages: list[ChunkedPassage] = []
    chosen: list[bool] = []
    held: dict[Mark, int] = {}
    links: list[tuple[int, int]] = []
    left = iter(expanded or ())
    for piece in example:
        links += _links(piece, len(ids), held)
        places: list[int] = []  # of the piece's tokens; all of a chunk's are at its vector
        if not piece.passage or expanded is None:
            parts = [(tuple(piece.ids), True)]
        else:
            passage = _chunks(piece, k)
            mask = next(left)
            passages.append(passage)
            chosen += [not as_text for as_text in mask]
            parts = list(zip(passage.chunk_ids(), mask, strict=True))
        for part, as_text in parts:
            places += [len(ids) + place * as_text for place in range(len(part))]
            ids += part if as_text else (0,)
            vectors += [not as_text] * (len(part) if as_text else 1)
            weights += [piece.weight] * len(part) if as_text else [0.0]
        held.update({mark: places[token] for mark, token in piece.holds.items()})
    laid_out = (tuple(ids), tuple(vectors), tuple(weights), tuple(passages), tuple(chosen))
    return Row(*laid_out, tuple(links), tuple(example), k, origin)


def collate(rows: Sequence[Row]) -> Batch:
    """Pad rows on the right to one batch."""
    length = max(len(row.ids) for row in rows)
    links = [(place, *link) for place, row in enumerate(rows) for link in row.links]

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
        passages=tuple(passage for row in rows for passage in row.passages),
        chosen=torch.tensor([c for row in rows for c in row.chosen], dtype=torch.bool),
        links=torch.tensor(links, dtype=torch.long).reshape(-1, 3),
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


def targets(row: Row) -> tuple[int, ...]:
    """The tokens of a row that count fully."""
    pairs = zip(row.ids, row.weights, strict=True)
    return tuple(id_ for id_, weight in pairs if weight == CHOICE_WEIGHT)


def chunks_of(ids: Sequence[int], k: int) -> Iterator[Sequence[int]]:
    """Cut token ids every k; the last chunk may be shorter."""
    return (ids[start : start + k] for start in range(0, len(ids), k))


def _links(piece: Piece, start: int, held: Mapping[Mark, int]) -> list[tuple[int, int]]:
    """Of a piece that begins at `start`: what is said before each token, and read where."""
    return [
        (start + place - 1, held[mark]) for place, mark in enumerate(piece.says) if mark in held
    ]


def _chunks(piece: Piece, k: int) -> ChunkedPassage:
    """As the piece was cut, or every k tokens."""
    if piece.chunked is not None:
        return piece.chunked
    return ChunkedPassage("", tuple(piece.ids), tuple(map(len, chunks_of(piece.ids, k))), ())
