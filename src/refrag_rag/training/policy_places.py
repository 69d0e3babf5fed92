"""The policy taught where answers stand: a start for rewards, which are noisier."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from refrag_rag.training.loss import Sums
from refrag_rag.training.policy_objective import see
from refrag_rag.training.policy_rollouts import Case
from refrag_rag.training.reading import Reader

PASSAGE_SHARE = 0.2  # of the loss


class PlacesObjective:
    """Cross-entropy of the first draw against the chunks that hold an answer. Ours.

    The rest of their passages gets a small share, so that what is left of a budget goes there. The
    decoder is not asked, so that a step costs little more than the encoder. A case whose
    answer stands in no passage adds nothing.

    Parameters
    ----------
    reader
        Gives embeddings; it does not move.
    """

    figures = ("place_loss", "places_found")

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, module: nn.Module, rows: Sequence[Case], everything: Sequence[Case]) -> Sums:  # noqa: ARG002
        """Sum the losses of cases; right are those with all places among the best T'."""
        logits = module(see(self.reader, rows), [case.question for case in rows])
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
