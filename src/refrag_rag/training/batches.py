"""Examples to tensors: which chunks become vectors, right padding, labels and loss weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from refrag_rag.training.tasks import Piece

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """One training step's tensors. ``V`` vectors stand in the batch in reading order.

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
    windows
        Token ids of the passages that have vectors, for the encoder.
    chosen
        *Shape:* (sum of L,), bool; which chunks of `windows` are vectors.
    k
        Tokens in a chunk of this batch.
    """

    input_ids: Tensor
    vector_mask: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor
    windows: list[list[int]]
    chosen: Tensor
    k: int


def collate(
    examples: Sequence[Sequence[Piece]], rng: Random, *, k: int = 8, text_share: float = 1.0
) -> Batch:
    """Lay out a batch; chunks stay text with probability `text_share`.

    One batch in four decides for whole passages instead of chunks, since policies often expand
    most of one passage.
    """
    rows, windows, chosen = [], [], []
    whole = rng.random() < 0.25
    for example in examples:
        row: list[tuple[int, float, bool]] = []
        for piece in example:
            if not piece.passage or text_share >= 1:
                row += [(token, piece.weight, False) for token in piece.ids]
                continue
            windows.append(list(piece.ids))
            passage_as_text = rng.random() < text_share
            for chunk in chunks_of(piece.ids, k):
                as_text = passage_as_text if whole else rng.random() < text_share
                chosen.append(not as_text)
                row += [(t, piece.weight, False) for t in chunk] if as_text else [(0, 0.0, True)]
        rows.append(row)
    length = max(len(row) for row in rows)
    padded = [row + [(-1, 0.0, False)] * (length - len(row)) for row in rows]
    ids = torch.tensor([[token for token, _, _ in row] for row in padded])  # (B, T)
    vectors = torch.tensor([[vector for _, _, vector in row] for row in padded])  # (B, T)
    weights = torch.tensor([[weight for _, weight, _ in row] for row in padded])  # (B, T)
    return Batch(
        input_ids=ids.clamp(min=0),
        vector_mask=vectors,
        attention_mask=(ids >= 0).long(),
        labels=ids.masked_fill((weights == 0) | (ids < 0), IGNORED),
        weights=weights,
        windows=windows,
        chosen=torch.tensor(chosen, dtype=torch.bool),
        k=k,
    )


def chunks_of(ids: Sequence[int], k: int) -> Iterator[Sequence[int]]:
    """Cut token ids every k; the last chunk may be shorter."""
    return (ids[start : start + k] for start in range(0, len(ids), k))
