"""AdamW over the parameters that are trained."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from refrag_rag.training.settings import LoopSettings


def build_optimizer(
    module: nn.Module, settings: LoopSettings, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The optimizer of a run; each of its groups has the ``rate`` of its parameters.

    Parameters
    ----------
    rates
        Shares of the learning rate, by how parameters' names begin.
    """
    return torch.optim.AdamW(
        _groups(module, rates),
        lr=settings.lr,
        betas=(0.9, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def moving(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _groups(module: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters that are trained, by their share of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = next((r for start, r in rates.items() if name.startswith(start)), 1.0)
            groups.setdefault(rate, []).append(parameter)
    return [{"params": found, "rate": rate} for rate, found in groups.items()]
