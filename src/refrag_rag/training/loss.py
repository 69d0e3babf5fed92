"""The losses of rows: next tokens, and distillation from the same decoder reading full text."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from refrag_rag.training.batches import IGNORED, Batch, Row, arrange, collate


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


class Objective(Protocol):
    """The loss of a micro-batch; `everything` is the global batch it belongs to."""

    def __call__(self, module: nn.Module, rows: Sequence[Any], everything: Sequence[Any]) -> Sums:
        """Sum the losses."""


def next_token_loss(module: nn.Module, rows: Sequence[Row], everything: Sequence[Row]) -> Sums:
    """Next-token loss of mixed rows: what all stages but the policy's minimise."""
    batch = collate(rows)
    return next_token_sums(module(batch, encode=any(row.chosen for row in everything)), batch)


def next_token_sums(logits: Tensor, batch: Batch) -> Sums:
    """Sum the losses of a batch from its logits, *shape* (B, T, vocabulary)."""
    labels = batch.labels[:, 1:].flatten().to(logits.device)  # (B * (T-1),)
    kept = labels != IGNORED
    flat = logits[:, :-1].flatten(0, 1)[kept].float()  # (N, vocabulary)
    weights = batch.weights[:, 1:].flatten().to(logits.device)[kept]  # (N,)
    losses = cross_entropy(flat, labels[kept], reduction="none")  # (N,)
    targets = batch.targets[:, 1:].flatten().to(logits.device)[kept]  # (N,)
    with torch.no_grad():
        right = (flat[targets].argmax(-1) == labels[kept][targets]).sum()
    return Sums((losses * weights).sum(), losses[targets].detach().sum(), right, targets.sum())


def distilled_rows(
    module: nn.Module, rows: Sequence[Row], everything: Sequence[Row], *, weight: float
) -> Sums:
    """Next-token loss, plus `weight` times the Kullback-Leibler divergence on the targets.

    The divergence, in nats a token, is that from the `Reader` as it stands, which is the teacher
    too: without gradient, every chunk as text.
    """
    batch = collate(rows)
    logits = module(batch, encode=any(row.chosen for row in everything))  # (B, T, vocabulary)
    sums = next_token_sums(logits, batch)
    full = collate([_as_text(row) for row in rows])
    with torch.no_grad():
        teacher = _target_logs(module(full), full)  # (N, vocabulary)
    student = _target_logs(logits, batch)  # (N, vocabulary)
    divergence = kl_div(student, teacher, reduction="sum", log_target=True)
    return sums._replace(loss=sums.loss + weight * divergence)


def _as_text(row: Row) -> Row:
    full = arrange(row.pieces, None)
    return full if row.weight else full.silent()


def _target_logs(logits: Tensor, batch: Batch) -> Tensor:
    kept = batch.targets[:, 1:].to(logits.device)  # (B, T-1)
    return log_softmax(logits[:, :-1][kept].float(), -1)
