"""Rollouts of the expansion policy: arrangements drawn by Gumbel top-k, rewards, advantages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from refrag_rag.policies import Chunks, limit_of
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Batch, Row, arrange, collate
from refrag_rag.training.examples import Piece
from refrag_rag.training.reading import Reader

SAME_REWARD = 1e-6


@dataclass(frozen=True, eq=False)
class Case:
    """One example that the policy decides on.

    Attributes
    ----------
    pieces
        The example, with its gold tokens.
    texts
        Its L chunks as text.
    passages
        *Shape:* (L,); the passage of each chunk.
    question
        What is asked; empty where nothing is.
    question_piece
        The question, cut into chunks.
    p
        Share of the chunks to expand.
    origin
        Where it comes from, for messages.
    weight
        1, or 0 for a case that only fills a place.
    answer_chunks
        Where the gold answer stands, if it stands in a passage.
    """

    pieces: tuple[Piece, ...]
    texts: tuple[str, ...]
    passages: NDArray[np.int64]
    question: str
    question_piece: Piece | None
    p: float
    origin: str = ""
    weight: float = 1.0
    answer_chunks: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of the example, all as text."""
        return sum(len(piece.ids) for piece in self.pieces)

    @property
    def chunked(self) -> list[ChunkedPassage]:
        """The passages."""
        return [piece.chunked for piece in self.pieces if piece.chunked is not None]

    def allowed(self, p: float | None = None) -> int:
        """How many chunks a share (the case's own by default) expands, T'."""
        return limit_of(self.p if p is None else p, len(self.texts))

    def silent(self) -> "Case":
        """The same without any loss."""
        return replace(self, weight=0.0)

    def arranged(self, expanded: Sequence[int]) -> Row:
        """The example with these chunks as text."""
        mask = np.zeros(len(self.texts), bool)
        mask[list(expanded)] = True
        sizes = [len(passage) for passage in self.chunked]
        parts = np.split(mask, np.cumsum(sizes)[:-1])
        return arrange(self.pieces, [part.tolist() for part in parts], origin=self.origin)


@dataclass(frozen=True, eq=False)
class Rollout:
    """G arrangements of one case, drawn by the policy as it was.

    Attributes
    ----------
    chunks
        What the policy saw.
    order
        *Shape:* (G, T'), the chunks in the order they were drawn.
    log_probs
        *Shape:* (G, T'), of each draw.
    rewards
        *Shape:* (G,), mean log-probability of the gold tokens: minus the log-perplexity.
    """

    chunks: Chunks
    order: Tensor
    log_probs: Tensor
    rewards: Tensor

    @property
    def advantages(self) -> Tensor | None:
        """Rewards normalised over the group, *shape* (G,); None if they do not differ."""
        if float(self.rewards.max() - self.rewards.min()) < SAME_REWARD:
            return None
        centred = self.rewards - self.rewards.mean()
        return centred / self.rewards.std(correction=0)


def gumbel_top_k(
    logits: Tensor, count: int, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw sequences without replacement, chunk after chunk from the softmax of what is left.

    The largest of logits plus Gumbel noise, in falling order, have that distribution.

    Returns
    -------
    Tensor
        *Shape:* (samples, count)
    """
    uniform = torch.rand(samples, len(logits), generator=generator).clamp(1e-20, 1 - 1e-7)
    noise = -torch.log(-torch.log(uniform))
    return (logits.detach().cpu() + noise).topk(count, dim=1).indices


def sequence_log_probs(logits: Tensor, order: Tensor) -> Tensor:
    """Log-probability of every draw of sequences; logits once, masked again (REFRAG, section 2.3).

    Parameters
    ----------
    logits
        *Shape:* (L,)
    order
        *Shape:* (G, T')

    Returns
    -------
    Tensor
        *Shape:* (G, T')
    """
    chosen = logits[order]  # (G, T')
    taken = torch.zeros(*order.shape, len(logits), dtype=torch.bool, device=logits.device)
    taken.scatter_(2, order[..., None], True)  # (G, T', L): which chunk is drawn when
    before = taken.cumsum(1).bool() & ~taken  # (G, T', L): drawn before
    left = logits.expand_as(taken).masked_fill(before, float("-inf"))
    return chosen - left.logsumexp(-1)


@torch.inference_mode()
def mean_log_probs(
    reader: Reader,
    rows: Sequence[Row],
    rows_at_once: int,
    known: Sequence[NDArray[np.float32]] | None = None,
) -> Tensor:
    """Mean log-probability of each row's gold tokens, *shape* (rows,).

    Parameters
    ----------
    known
        For each row the embeddings of all chunks of its passages, *shape* (L, D_enc): arrangements
        of one example need them only once.
    """
    found = []
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        batch, vectors = collate(part), None
        if known is not None:
            pairs = zip(known[start : start + rows_at_once], part, strict=True)
            chosen = [embeddings[np.array(row.chosen)] for embeddings, row in pairs]
            vectors = torch.from_numpy(np.concatenate(chosen)).to(reader.model.device)
        found.append(_row_means(reader(batch, known=vectors), batch))
    return torch.cat(found)


def _row_means(logits: Tensor, batch: Batch) -> Tensor:
    labels = batch.labels[:, 1:].clamp(min=0).to(logits.device)  # (B, T-1)
    counted = batch.targets[:, 1:].to(logits.device)  # (B, T-1)
    kept, wanted = logits[:, :-1][counted].float(), labels[counted]  # (N, vocabulary), (N,)
    values = log_softmax(kept, -1).gather(1, wanted[:, None])[:, 0]  # (N,)
    rows = counted.nonzero()[:, 0]  # (N,)
    sums = torch.zeros(len(labels), device=values.device).index_add_(0, rows, values)
    return (sums / counted.sum(1)).cpu()
