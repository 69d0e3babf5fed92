"""The losses of rows: next tokens, and distillation from the same decoder reading full text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from refrag_rag.training.batches import Batch, Row, arrange, collate
from refrag_rag.training.reading import Head

PART = 4096  # tokens whose logits exist at once


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
    encode = any(any(row.chosen) for row in everything)
    sums: Sums = module(collate(rows), encode=encode, read=next_token_sums)
    return sums


def next_token_sums(states: Tensor, head: Head, batch: Batch) -> Sums:
    """Sum the losses of a batch from the decoder's last states; a `Readout`."""
    after = batch.places + 1
    weights = batch.weights.flatten()[after]  # (N,)
    targets = batch.targets.flatten()[after]  # (N,)
    losses, right = _scores(states, head, batch, batch.places)
    target_loss = (losses.detach() * targets).sum()
    return Sums((losses * weights).sum(), target_loss, (right & targets).sum(), targets.sum())


def target_log_probs(states: Tensor, head: Head, batch: Batch) -> Tensor:
    """Log-probabilities of the targets, *shape* (M,); a `Readout`."""
    return -_scores(states, head, batch, batch.target_places)[0]


def target_states(states: Tensor, head: Head, batch: Batch) -> Tensor:  # noqa: ARG001
    """The states that predict the targets, *shape* (M, D_dec); a `Readout`."""
    return states.flatten(0, 1).index_select(0, batch.target_places)


def distilled_rows(
    module: nn.Module, rows: Sequence[Row], everything: Sequence[Row], *, weight: float
) -> Sums:
    """Next-token loss, plus `weight` times the Kullback-Leibler divergence on the targets.

    The divergence, in nats a token, is that from the `Reader` as it stands, which is the teacher
    too: without gradient, every chunk as text.
    """
    with torch.no_grad():
        teacher = module(collate([_as_text(row) for row in rows]), read=target_states)
    read = partial(_distilled_sums, teacher=teacher, weight=weight)
    sums: Sums = module(collate(rows), encode=any(any(row.chosen) for row in everything), read=read)
    return sums


def _distilled_sums(
    states: Tensor, head: Head, batch: Batch, *, teacher: Tensor, weight: float
) -> Sums:
    sums = next_token_sums(states, head, batch)
    student = target_states(states, head, batch)
    (divergences,) = _in_parts(_divergences, head, student, teacher)
    return sums._replace(loss=sums.loss + weight * divergences.sum())


def _as_text(row: Row) -> Row:
    full = arrange(row.pieces, None)
    return full if row.weight else full.silent()


def _scores(states: Tensor, head: Head, batch: Batch, places: Tensor) -> tuple[Tensor, ...]:
    """Losses of the tokens behind places, and whether they are predicted; each *shape* (N,)."""
    labels = batch.input_ids.flatten()[places + 1]  # (N,)
    return _in_parts(_token_scores, head, states.flatten(0, 1).index_select(0, places), labels)


def _in_parts(
    score: Callable[..., tuple[Tensor, ...]], head: Head, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Score rows part by part, so that a part's logits are all that exist; backward as well."""
    parts = list(zip(*(torch.split(tensor, PART) for tensor in tensors), strict=True))
    call: Callable[..., tuple[Tensor, ...]] = score
    if len(parts) > 1 and torch.is_grad_enabled():
        call = partial(checkpoint, score, use_reentrant=False, preserve_rng_state=False)
    found = [call(head, *part) for part in parts]
    return tuple(torch.cat(values) for values in zip(*found, strict=True))


def _token_scores(head: Head, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = _wide(head(states))  # (n, vocabulary)
    losses = cross_entropy(logits, labels, reduction="none")  # (n,)
    return losses, logits.detach().argmax(-1) == labels


def _divergences(head: Head, student: Tensor, teacher: Tensor) -> tuple[Tensor]:
    with torch.no_grad():
        wanted = log_softmax(_wide(head(teacher)), -1)  # (m, vocabulary)
    found = log_softmax(_wide(head(student)), -1)  # (m, vocabulary)
    return (kl_div(found, wanted, reduction="none", log_target=True).sum(-1),)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
