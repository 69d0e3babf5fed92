"""Optimizers by name: AdamW, and Muon for the matrices of transformer blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refrag_rag.training.settings import LoopSettings

QUINTIC = (3.4445, -4.775, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
RMS = 0.2  # of an update: about AdamW's, so that learning rates carry over


class MuonAdamW(torch.optim.AdamW):
    """Muon for some matrices, AdamW for everything else, under one learning rate.

    The update of a matrix is its momentum with all singular values near one (Jordan et al. 2024;
    scaled as in Liu et al. 2025, arXiv 2502.16982). In float32, which CPUs without bfloat16
    instructions need; whole matrices only, so not for sharded training. Processes that all hold
    them divide the work.

    Parameters
    ----------
    matrices
        Updated by Muon.
    others
        Updated by AdamW.
    **options
        Of AdamW.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], **options: Any
    ) -> None:
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__([group for group in groups if group["params"]], **options)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of everything that has a gradient."""
        held = []
        for group in self.param_groups:
            for matrix in group["params"] if group["muon"] else ():
                if matrix.grad is not None:
                    held.append((group, matrix, matrix.grad))
                    matrix.grad = None  # AdamW passes over it
        loss = super().step(closure)
        with torch.no_grad():
            momenta = [self._momentum(matrix, gradient) for _, matrix, gradient in held]
            updates = orthogonal_together(momenta)
            for (group, matrix, gradient), update in zip(held, updates, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * RMS * max(matrix.shape) ** 0.5)
                matrix.grad = gradient
        return loss

    def _momentum(self, matrix: nn.Parameter, gradient: Tensor) -> Tensor:
        """Nesterov's, which is what is brought near orthogonal."""
        state = self.state[matrix]
        if "momentum" not in state:
            state["step"] = torch.tensor(0.0)  # AdamW looks for it in every state
            state["momentum"] = torch.zeros_like(matrix)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonal_together(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each matrix; of several processes each does a share for all.

    All of them call it with as many matrices of the same shapes.
    """
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes == 1 or not matrices:
        return orthogonal_each(matrices)
    own = dist.get_rank()
    found = [torch.zeros_like(matrix) for matrix in matrices]
    found[own::processes] = orthogonal_each(matrices[own::processes])
    together = torch.cat([matrix.flatten() for matrix in found])
    dist.all_reduce(together)
    parts = torch.split(together, [matrix.numel() for matrix in matrices])
    return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


def orthogonal_each(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each matrix; those of one shape at once, which two cores do twice as fast."""
    found = list(matrices)
    for shape in dict.fromkeys(matrix.shape for matrix in matrices):
        places = [place for place, matrix in enumerate(matrices) if matrix.shape == shape]
        stacked = torch.stack([matrices[place] for place in places])  # (N, rows, columns)
        for place, matrix in zip(places, orthogonal(stacked), strict=True):
            found[place] = matrix
    return found


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with their singular values brought near one, by Newton-Schulz steps.

    Parameters
    ----------
    matrices
        *Shape:* (N, rows, columns).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    first, second, third = QUINTIC
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.mT
        both = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        wide = torch.baddbmm(wide, both, wide, beta=first)
    return wide.mT if tall else wide


def build_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient.

    Parameters
    ----------
    module
        Its `_no_split_modules` names the classes of transformer blocks.
    """
    moving = [p for p in module.parameters() if p.requires_grad]
    options: dict[str, Any] = {
        "lr": settings.lr,
        "betas": (0.9, settings.beta2),
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(moving, **options)
    matrices = [p for p in _block_matrices(module) if p.requires_grad]
    chosen = set(matrices)
    return MuonAdamW(matrices, [p for p in moving if p not in chosen], **options)


def _block_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers inside transformer blocks, once each."""
    names = set(getattr(module, "_no_split_modules", ()))
    blocks = [block for block in module.modules() if type(block).__name__ in names]
    layers = [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]
    return [
        layer.weight for layer in dict.fromkeys(layers) if isinstance(layer.weight, nn.Parameter)
    ]
