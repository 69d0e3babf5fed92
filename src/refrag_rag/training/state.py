"""The state of a run on disk: written beside, synced, renamed into place; no pickle.

Sharded models are gathered to whole tensors, so that a run may go on with another number of
processes.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from refrag_rag.errors import TrainingError

STATE = "state.safetensors"
ON_THE_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
EVERYWHERE = StateDictOptions(full_state_dict=True)


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, gathered; on other processes than the first it may be empty."""
    inner = extract_model_from_parallel(module)
    weights: dict[str, Any] = dict(get_model_state_dict(inner, options=ON_THE_FIRST))
    return weights


def save_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    rest: dict[str, Any],
    *,
    write: bool,
) -> None:
    """Save everything that resuming needs. All processes call it; one of them writes.

    Raises
    ------
    TrainingError
        If it cannot be written; the state before it stays.
    """
    tensors = {f"model/{name}": tensor for name, tensor in whole_weights(module).items()}
    moments = _whole_optimizer(module, optimizer, ON_THE_FIRST).get("state", {})
    for name, values in moments.items():
        tensors |= {f"optimizer/{name}/{moment}": value for moment, value in values.items()}
    if write:
        # clones, since safetensors refuses tied weights
        _write(folder, {name: tensor.detach().clone() for name, tensor in tensors.items()}, rest)


def load_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_state` wrote; None if there is no state."""
    path = folder / STATE
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        rest: dict[str, Any] = json.loads(file.metadata()["rest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    set_model_state_dict(module, weights, options=EVERYWHERE)
    whole = _whole_optimizer(module, optimizer, EVERYWHERE)
    for name, values in whole["state"].items():
        for moment in values:
            values[moment] = tensors[f"optimizer/{name}/{moment}"]
    set_optimizer_state_dict(module, optimizer, whole, options=EVERYWHERE)
    return rest


def _whole_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, options: StateDictOptions
) -> dict[str, Any]:
    """Its state by the names of parameters, gathered; moments that are not there yet are made."""
    return dict(get_optimizer_state_dict(module, optimizer, options=options))


def _write(folder: Path, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    beside = folder / f"{STATE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={"rest": json.dumps(rest)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / STATE)
    except Exception as error:  # safetensors raises its own errors for a full disk
        beside.unlink(missing_ok=True)
        raise TrainingError(
            f"The state in {folder} cannot be written ({error}); the one before it is kept. "
            "Make room and start the same command again: it goes on there."
        ) from error
