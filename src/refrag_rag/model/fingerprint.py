"""Names of weights: what was computed with them is found under that name, and never under another.

A name takes reading all weights, so it is made once for each state of them.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

State = tuple[tuple[int, int, int], ...]


def weights_state(module: nn.Module) -> State:
    """Tell one state of a module's weights from another, without reading them.

    Every change in place counts (a step of an optimizer, ``load_state_dict``, ``add_``), and every
    tensor that is exchanged. Only what is written through ``tensor.data`` leaves no trace.
    """
    return tuple(
        [
            (id(one), 0 if one.is_inference() else one._version, one.data_ptr())
            for one in _tensors(module)
            if one is not None
        ]
    )


def _tensors(module: nn.Module) -> list[Tensor | None]:
    """Parameters and buffers, without the names that cost torch's own walk most of its time."""
    found: list[Tensor | None] = []
    left: list[Any] = [module]
    while left:
        part = left.pop()
        if part is not None:
            found += part._parameters.values()
            found += part._buffers.values()
            left += part._modules.values()
    return found


def digest_weights(weights: Mapping[str, Tensor], *others: Any, length: int) -> str:
    """SHA-256 of weights (as float32, whatever they are kept in) and other texts, in hex digits.

    Parameters
    ----------
    weights
        By name; their order does not matter.
    others
        What else counts.
    length
        How many digits.
    """
    digest = hashlib.sha256()
    for other in others:
        digest.update(str(other).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        if type(tensor) not in (Tensor, nn.Parameter):  # quantised: of a class of its own
            tensor = tensor.dequantize()
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:length]
