"""The policy's loss: clipped probability ratios, weighed by group-normalised advantages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refrag_rag.policies import Chunks
from refrag_rag.policies.learned import chunk_logits
from refrag_rag.policies.network import PolicyNetwork
from refrag_rag.training.loss import Sums
from refrag_rag.training.policy_rollouts import (
    Case,
    Rollout,
    gumbel_top_k,
    mean_log_probs,
    sequence_log_probs,
)
from refrag_rag.training.reading import Reader, embed


class PolicyModule(nn.Module):
    """The network behind one `forward` for several prompts.

    Parameters
    ----------
    network
        What is trained.
    """

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, chunks: Sequence[Chunks], questions: Sequence[str]) -> list[Tensor]:
        """Logits of each prompt's chunks, each *shape* (L,)."""
        return chunk_logits(self.network, chunks, questions)


class PolicyObjective:
    """Draws arrangements when new cases come, and keeps them while the same ones come again.

    Parameters
    ----------
    reader
        Gives embeddings and rewards; it does not move.
    samples
        Arrangements of a case, G.
    clip
        The ratio stays within 1 - clip and 1 + clip where that limits the gain.
    rows_at_once
        Arrangements that the decoder reads at once.
    """

    figures = ("log_perplexity", "groups_kept")

    def __init__(self, reader: Reader, *, samples: int, clip: float, rows_at_once: int) -> None:
        self.reader, self.samples, self.clip = reader, samples, clip
        self.rows_at_once = rows_at_once
        self._everything: Sequence[Any] = ()
        self._rollouts: dict[Case, Rollout] = {}

    def __call__(self, module: nn.Module, rows: Sequence[Case], everything: Sequence[Case]) -> Sums:
        """Sum the losses of cases; groups without a difference in reward add nothing."""
        if everything is not self._everything:
            self._everything, self._rollouts = everything, {}
        rollouts = self._drawn(module, rows)
        logits = module([r.chunks for r in rollouts], [case.question for case in rows])
        losses, rewards, kept = [], [], 0
        for case, rollout, one in zip(rows, rollouts, logits, strict=True):
            advantages = rollout.advantages
            losses.append(case.weight * clipped_loss(one, rollout, advantages, self.clip))
            rewards.append(case.weight * -rollout.rewards.mean())
            kept += bool(case.weight) and advantages is not None
        device = logits[0].device
        return Sums(
            torch.stack(losses).sum(),
            torch.stack(rewards).sum().to(device),
            torch.tensor(float(kept), device=device),
            torch.tensor(float(sum(case.weight for case in rows)), device=device),
        )

    def _drawn(self, module: nn.Module, cases: Sequence[Case]) -> list[Rollout]:
        if new := [case for case in cases if case not in self._rollouts]:
            chunks = see(self.reader, new)
            with torch.no_grad():
                logits = module(chunks, [case.question for case in new])
            for case, one, values in zip(new, chunks, logits, strict=True):
                self._rollouts[case] = self._roll_out(case, one, values)
        return [self._rollouts[case] for case in cases]

    def _roll_out(self, case: Case, chunks: Chunks, logits: Tensor) -> Rollout:
        order = gumbel_top_k(logits, case.allowed(), self.samples).to(logits.device)
        rows = [case.arranged(one) for one in order.tolist()]
        known = [chunks.embeddings] * len(rows)
        rewards = mean_log_probs(self.reader, rows, self.rows_at_once, known)
        return Rollout(chunks, order, sequence_log_probs(logits, order), rewards)


def clipped_loss(
    logits: Tensor, rollout: Rollout, advantages: Tensor | None, clip: float
) -> Tensor:
    """Minus the clipped gain, averaged over draws and arrangements (REFRAG, section 2.3).

    Parameters
    ----------
    logits
        *Shape:* (L,), of the policy as it is now.
    advantages
        *Shape:* (G,), or None: the loss is then zero.
    """
    if advantages is None:
        return 0 * logits.sum()
    ratio = (sequence_log_probs(logits, rollout.order) - rollout.log_probs).exp()  # (G, T')
    gain = advantages.to(logits)[:, None]  # (G, 1)
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()


@torch.inference_mode()
def see(reader: Reader, cases: Sequence[Case]) -> list[Chunks]:
    """What a policy sees of cases. A passage of several of them is encoded once."""
    pieces = [case.question_piece for case in cases]
    asked = [None if piece is None else piece.chunked for piece in pieces]
    passages = [one for case in cases for one in case.chunked] + [one for one in asked if one]
    distinct = list(dict.fromkeys(passages))
    rows = embed(reader.model, distinct).float().cpu().numpy()
    parts = np.split(rows, np.cumsum([len(passage) for passage in distinct])[:-1])
    known = dict(zip(distinct, parts, strict=True))
    return [
        Chunks(
            texts=case.texts,
            passages=case.passages,
            embeddings=np.concatenate([known[passage] for passage in case.chunked]),
            scores={},
            retrieval=[None] * len(case.chunked),
            question=known[question] if question else None,
        )
        for case, question in zip(cases, asked, strict=True)
    ]
