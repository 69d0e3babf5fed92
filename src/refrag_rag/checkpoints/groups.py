"""Weights in eight bits: integers in groups along the last axis, with a scale for each group."""

from collections.abc import Mapping

import torch
from torch import Tensor

GROUP = 64
SCALE = ".scale"  # behind the name of the weights it belongs to


def rounded(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A matrix as int8 with fp16 scales: weight = int8 * scale.

    Parameters
    ----------
    weight
        *Shape:* (..., n)

    Returns
    -------
    dict
        ``name``, int8, *shape* (..., n); ``name.scale``, fp16, *shape* (..., n / 64), or (..., 1)
        where 64 does not divide n.
    """
    group = GROUP if weight.shape[-1] % GROUP == 0 else weight.shape[-1]
    whole = weight.detach().float().cpu().contiguous()  # else what comes out is not, either
    grouped = whole.reshape(*whole.shape[:-1], -1, group)  # (..., n / group, group)
    largest = grouped.abs().amax(-1, keepdim=True)
    scale = (largest / 127).clamp(min=1e-7).half()
    above = (scale.view(torch.int16) + 1).view(torch.float16)  # the next number of fp16
    scale = torch.where(scale.float() * 127 < largest, above, scale)
    numbers = (grouped / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return {name: numbers.flatten(-2), name + SCALE: scale.squeeze(-1)}


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights by name, from rounded and ordinary ones.

    Raises
    ------
    ValueError
        If a scale does not belong to its weights.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        scale = stored.get(name + SCALE)
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in stored:
                raise ValueError(f"{name} has no weights")
        elif scale is None:
            weights[name] = tensor.float()
        else:
            if scale.shape[:-1] != tensor.shape[:-1] or tensor.shape[-1] % scale.shape[-1]:
                raise ValueError(f"{name} {tuple(tensor.shape)} has scales {tuple(scale.shape)}")
            grouped = tensor.float().reshape(*scale.shape, -1)
            weights[name] = (grouped * scale.float()[..., None]).flatten(-2)
    return weights
