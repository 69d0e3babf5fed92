"""Distillation: the decoder reading vectors agrees with the same decoder reading full text."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from refrag_rag.training.batches import Batch, Row, arrange, collate
from refrag_rag.training.loss import Sums, next_token_sums


def distilled_rows(
    module: nn.Module, rows: Sequence[Row], everything: Sequence[Row], *, weight: float
) -> Sums:
    """Next-token loss, plus the divergence from full text on the targets.

    Parameters
    ----------
    module
        A `Reader`. As it stands it is the teacher too: without gradient, every chunk as text.
    rows, everything
        See `Objective`.
    weight
        Of the Kullback-Leibler divergence, in nats a token, beside the loss.
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


def _target_logs(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    kept = batch.targets[:, 1:].to(logits.device)  # (B, T-1)
    return log_softmax(logits[:, :-1][kept].float(), -1)
