"""Weighted next-token loss, and accuracy on the tokens that count fully."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from refrag_rag.training.batches import IGNORED, Batch
from refrag_rag.training.tasks import CHOICE_WEIGHT

Metrics = tuple[Tensor, Tensor, Tensor]  # weighted loss, target loss, target accuracy


def next_token_loss(logits: Tensor, batch: Batch) -> Metrics:
    """Loss normalised by the weights; target loss and target accuracy (no gradient).

    Parameters
    ----------
    logits
        *Shape:* (B, T, vocabulary)
    batch
        The batch that was read.

    Returns
    -------
    tuple
        Three scalars: weighted loss; mean loss and accuracy on tokens of `CHOICE_WEIGHT`.
    """
    labels = batch.labels[:, 1:].flatten()  # (B * (T-1),)
    kept = labels != IGNORED
    flat = logits[:, :-1].flatten(0, 1)[kept]  # (N, vocabulary)
    weights = batch.weights[:, 1:].flatten()[kept]  # (N,)
    losses = cross_entropy(flat, labels[kept], reduction="none")  # (N,)
    targets = weights == CHOICE_WEIGHT
    with torch.no_grad():
        right = (flat[targets].argmax(-1) == labels[kept][targets]).float()
    total = (losses * weights).sum() / weights.sum()
    return total, losses[targets].detach().mean(), right.mean()
