"""The policy's losses: clipped probability ratios by group-normalised advantages; and places."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from refrag_rag.policies import Chunks
from refrag_rag.policies.learned import chunk_logits
from refrag_rag.policies.network import PolicyNetwork
from refrag_rag.training.loss import Sums
from refrag_rag.training.policy_cases import Case
from refrag_rag.training.policy_rollouts import (
    Embeddings,
    Rollout,
    gumbel_top_k,
    mean_log_probs,
    see,
    sequence_log_probs,
)
from refrag_rag.training.reading import Reader

PASSAGE_SHARE = 0.2  # of the loss that teaches where answers stand


class PolicyModule(nn.Module):
    """The network that is trained, behind one `forward` for several prompts."""

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, chunks: Sequence[Chunks], questions: Sequence[str]) -> list[Tensor]:
        """Logits of each prompt's chunks, each *shape* (L,)."""
        return chunk_logits(self.network, chunks, questions)


class PolicyObjective:
    """Draws arrangements when new cases come, and keeps them while the same ones come again.

    The reader gives embeddings and rewards; it does not move.

    Parameters
    ----------
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
        self.embeddings = Embeddings(reader)
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
            chunks = see(self.embeddings, new)
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


class PlacesObjective:
    """Cross-entropy of the first draw against the chunks that hold an answer. Ours.

    The rest of their passages gets a small share, so that what is left of p goes there. The
    decoder is not asked, and a passage is encoded once, so that later steps cost little. A case
    whose answer stands in no passage adds nothing.
    """

    figures = ("place_loss", "places_found")

    def __init__(self, reader: Reader) -> None:
        self.embeddings = Embeddings(reader)

    def __call__(self, module: nn.Module, rows: Sequence[Case], everything: Sequence[Case]) -> Sums:  # noqa: ARG002
        """Sum the losses of cases; right are those with all places among the best T'."""
        logits = module(see(self.embeddings, rows), [case.question for case in rows])
        weights = [case.weight * bool(case.answer_chunks) for case in rows]
        losses = [place_loss(one, case) for one, case in zip(logits, rows, strict=True)]
        found = [w * _found(one, case) for w, one, case in zip(weights, logits, rows, strict=True)]
        total = torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()
        counted = torch.tensor([sum(found), sum(weights)], device=total.device)
        return Sums(total, total.detach(), *counted)


def place_loss(logits: Tensor, case: Case) -> Tensor:
    """Mean negative log-probability of the answer's chunks, and of those around it, as first draw.

    Parameters
    ----------
    logits
        *Shape:* (L,)
    """
    if not case.answer_chunks:
        return 0 * logits.sum()
    surprise = -log_softmax(logits, 0)  # (L,)
    places = list(case.answer_chunks)
    around = np.isin(case.passages, case.passages[places])
    around[places] = False
    if not around.any():
        return surprise[places].mean()
    rest = surprise[torch.from_numpy(around).to(logits.device)].mean()
    return (1 - PASSAGE_SHARE) * surprise[places].mean() + PASSAGE_SHARE * rest


def _found(logits: Tensor, case: Case) -> bool:
    best = set(logits.topk(min(len(logits), case.allowed())).indices.tolist())
    return set(case.answer_chunks) <= best
