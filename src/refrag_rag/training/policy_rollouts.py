"""Rollouts of the expansion policy: arrangements drawn by Gumbel top-k, rewards, advantages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refrag_rag.policies import Chunks
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Row, collate
from refrag_rag.training.loss import target_log_probs
from refrag_rag.training.policy_cases import Case
from refrag_rag.training.reading import Reader, embed

SAME_REWARD = 1e-6
KEPT = 2**31  # bytes of embeddings


class Embeddings:
    """Chunk embeddings of a frozen encoder, which encodes a passage once as long as it is kept."""

    def __init__(self, reader: Reader, *, keep: int = KEPT) -> None:
        self._model, self._keep = reader.model, keep
        self._known: dict[ChunkedPassage, NDArray[np.float32]] = {}
        self._bytes = 0

    @torch.inference_mode()
    def __call__(
        self, passages: Sequence[ChunkedPassage]
    ) -> dict[ChunkedPassage, NDArray[np.float32]]:
        """Embeddings by passage, *shape* (L, D_enc) each."""
        new = [one for one in dict.fromkeys(passages) if one not in self._known]
        if new:
            rows = embed(self._model, new).float().cpu().numpy()
            parts = np.split(rows, np.cumsum([len(passage) for passage in new])[:-1])
            self._known |= zip(new, parts, strict=True)
            self._bytes += rows.nbytes
        found = {passage: self._known[passage] for passage in passages}
        if self._bytes > self._keep:
            self._known, self._bytes = {}, 0
        return found


def see(embeddings: Embeddings, cases: Sequence[Case]) -> list[Chunks]:
    """What a policy sees of cases."""
    pieces = [case.asked for case in cases]
    asked = [None if piece is None else piece.chunked for piece in pieces]
    passages = [one for case in cases for one in case.chunked] + [one for one in asked if one]
    known = embeddings(passages)
    return [
        Chunks(
            texts=case.texts,
            passages=case.passages,
            embeddings=np.concatenate([known[passage] for passage in case.chunked]),
            scores={},
            retrieval=case.retrieval,
            question=known[question] if question else None,
        )
        for case, question in zip(cases, asked, strict=True)
    ]


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

    The largest of logits plus Gumbel noise, in falling order, have that distribution. *Shape*
    (samples, count).
    """
    uniform = torch.rand(samples, len(logits), generator=generator).clamp(1e-20, 1 - 1e-7)
    noise = -torch.log(-torch.log(uniform))
    return (logits.detach().cpu() + noise).topk(count, dim=1).indices


def sequence_log_probs(logits: Tensor, order: Tensor) -> Tensor:
    """Log-probability of every draw of sequences; logits once, masked again (REFRAG, section 2.3).

    Of logits (L,) and an order (G, T'); *shape* (G, T').
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
        logs = reader(batch, known=vectors, read=target_log_probs).cpu()  # (M,)
        rows_of = batch.target_places // batch.input_ids.shape[1]  # (M,)
        sums = torch.zeros(len(part), dtype=logs.dtype).index_add_(0, rows_of, logs)
        found.append(sums / rows_of.bincount(minlength=len(part)))
    return torch.cat(found)
