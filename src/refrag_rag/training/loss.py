"""Weighted next-token loss, and accuracy on the targets among the tokens."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from refrag_rag.training.batches import IGNORED, Batch


class Sums(NamedTuple):
    """What a forward pass adds to the step: sums, so that micro-batches and processes add up.

    Attributes
    ----------
    loss
        Weighted, with gradient.
    target_loss, right, targets
        Over the targets: loss, how many are predicted right, and how many there are.
    """

    loss: Tensor
    target_loss: Tensor
    right: Tensor
    targets: Tensor


def next_token_sums(logits: Tensor, batch: Batch) -> Sums:
    """Sum the losses of a batch.

    Parameters
    ----------
    logits
        *Shape:* (B, T, vocabulary)
    batch
        The batch that was read.
    """
    labels = batch.labels[:, 1:].flatten().to(logits.device)  # (B * (T-1),)
    kept = labels != IGNORED
    flat = logits[:, :-1].flatten(0, 1)[kept].float()  # (N, vocabulary)
    weights = batch.weights[:, 1:].flatten().to(logits.device)[kept]  # (N,)
    losses = cross_entropy(flat, labels[kept], reduction="none")  # (N,)
    targets = batch.targets[:, 1:].flatten().to(logits.device)[kept]  # (N,)
    with torch.no_grad():
        right = (flat[targets].argmax(-1) == labels[kept][targets]).sum()
    return Sums((losses * weights).sum(), losses[targets].detach().sum(), right, targets.sum())
