"""Examples to rows, rows to tensors: pieces of text, which chunks are vectors, labels, weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refrag_rag.model.windows import WindowBatch, WindowCutter
from refrag_rag.text.chunking import ChunkedPassage

STEPS = ((256, 32), (1024, 64), (2**62, 128))  # up to so many positions, a multiple of so many
WINDOW_STEP = 32


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
    around
        Of a passage: tokens before and behind every run of its vectors.
    """

    ids: Sequence[int]
    weight: float = 0.0
    target: bool = False
    chunked: ChunkedPassage | None = None
    retrieval: float | None = None
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


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

    Places are counted over all B * T positions, so that a GPU need not be waited for to find them.

    Attributes
    ----------
    input_ids
        *Shape:* (B, T), int64; 0 where a vector stands and in the padding.
    vector_mask
        *Shape:* (B, T), bool; where the V vectors stand.
    vector_places
        *Shape:* (V,), int64; the same as places.
    attention_mask
        *Shape:* (B, T), int64; right padding.
    weights, targets
        *Shape:* (B, T); what the loss on each token weighs, and whether it is a target.
    places
        *Shape:* (N,), int64; positions whose next token has a weight.
    target_places
        *Shape:* (M,), int64; positions whose next token is a target.
    passages
        Those that have vectors, for the encoder.
    chosen
        *Shape:* (sum of L,), bool; which chunks of `passages` are vectors.
    windows
        The windows of the chosen chunks, if they were cut ahead.
    """

    input_ids: Tensor
    vector_mask: Tensor
    vector_places: Tensor
    attention_mask: Tensor
    weights: Tensor
    targets: Tensor
    places: Tensor
    target_places: Tensor
    passages: tuple[ChunkedPassage, ...]
    chosen: Tensor
    windows: WindowBatch | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; from pinned memory, without waiting for it."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU reads by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        changed: dict[str, Any] = {n: change(v) for n, v in values.items() if isinstance(v, Tensor)}
        if self.windows is not None:
            changed["windows"] = WindowBatch(*map(change, self.windows))
        return replace(self, **changed)


@dataclass(frozen=True)
class CollatedRows(Sequence[Row]):
    """Rows of a micro-batch, and the batch that `collate` has made of them ahead."""

    rows: Sequence[Row]
    batch: Batch

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        """One or more of the rows."""
        return self.rows[place]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def pin_memory(self) -> "CollatedRows":
        """The same, with the batch's tensors in pinned memory."""
        return replace(self, batch=self.batch.pin_memory())


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
        parts: list[tuple[tuple[int, ...], bool]] = [(tuple(piece.ids), True)]
        if piece.chunked is not None and expanded is not None:
            mask = next(left)
            passages.append(piece.chunked)
            chosen += [not as_text for as_text in mask]
            parts = list(_with_tokens_around(piece, mask))
        for part, as_text in parts:
            count = len(part) if as_text else 1
            ids += part if as_text else (0,)
            vectors += [not as_text] * count
            weights += [piece.weight if as_text else 0.0] * count
            targets += [piece.target and as_text] * count
    laid_out = (tuple(ids), tuple(vectors), tuple(weights), tuple(targets))
    return Row(*laid_out, tuple(passages), tuple(chosen), tuple(example), origin)


def _with_tokens_around(
    piece: Piece, mask: Sequence[bool]
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """A passage's chunks, each text or not, and the tokens around runs of vectors, as text."""
    assert piece.chunked is not None
    before, behind = piece.around
    inside = False
    for ids, as_text in zip(piece.chunked.chunk_ids(), mask, strict=True):
        if inside == as_text and (around := behind if inside else before):
            yield around, True
        inside = not as_text
        yield ids, as_text
    if inside and behind:
        yield behind, True


def collate(
    rows: Sequence[Row], *, cutter: WindowCutter | None = None, most: int | None = None
) -> Batch:
    """Pad rows on the right to one batch; of collated rows it is the one they have.

    Parameters
    ----------
    cutter
        Cuts the encoder's windows too.
    most
        Positions that the decoder has. T and the windows' length are then rounded up to one of few
        sizes, which compiled code and a GPU's memory are reused for.
    """
    if isinstance(rows, CollatedRows):
        return rows.batch
    counts = np.array([len(row.ids) for row in rows])  # (B,)
    length = int(counts.max())
    if most is not None:
        step = next(step for end, step in STEPS if length <= end)
        length = max(length, min(-(-length // step) * step, most))
    there = np.arange(length) < counts[:, None]  # (B, T)

    def padded(name: str, kind: type) -> NDArray[Any]:
        values: NDArray[Any] = np.zeros(there.shape, kind)
        values[there] = np.concatenate([np.array(getattr(row, name), kind) for row in rows])
        return values

    vectors, weights = padded("vectors", bool), padded("weights", np.float32)
    targets = padded("targets", bool)
    passages = tuple(passage for row in rows for passage in row.passages)
    chosen = np.array([c for row in rows for c in row.chosen], bool)
    windows = None
    if cutter is not None and chosen.any():
        cut = [window for passage in passages for window in cutter.cut(passage)]
        windows = cutter.stack(cut, chosen=chosen, multiple=1 if most is None else WINDOW_STEP)
    arrays = {
        "input_ids": padded("ids", np.int64),
        "vector_mask": vectors,
        "vector_places": np.flatnonzero(vectors),
        "attention_mask": there.astype(np.int64),
        "weights": weights,
        "targets": targets,
        "places": _before(weights != 0),
        "target_places": _before(targets),
        "chosen": chosen,
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Batch(**tensors, passages=passages, windows=windows)


def _before(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The positions before wanted ones; a row's first has none. *Shape* (B, T) to (N,)."""
    rows, columns = wanted[:, 1:].nonzero()
    places: NDArray[np.int64] = rows * wanted.shape[1] + columns
    return places
