"""The state of a run on disk: written beside, synced, renamed into place; no pickle.

Sharded models are gathered to whole tensors, so that a run may go on with another number of
processes.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
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

from refrag_rag.errors import InputError
from refrag_rag.training import deepspeed

STATE = "state.safetensors"
ON_THE_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
EVERYWHERE = StateDictOptions(full_state_dict=True)


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, gathered; on other processes than the first it may be empty."""
    inner = extract_model_from_parallel(module)
    weights: dict[str, Any] = dict(get_model_state_dict(inner, options=ON_THE_FIRST))
    return weights


def save_state(
    accelerator: Accelerator,
    folder: Path,
    module: nn.Module,
    optimizer: Any,
    rest: dict[str, Any],
    *,
    step: int,
) -> None:
    """Save everything that resuming needs. All processes call it; the first one writes.

    Raises
    ------
    TrainingError
        If it cannot be written; the state before it stays.
    """
    if deepspeed.is_used(accelerator):
        deepspeed.save(accelerator, folder, rest, step=step)
    else:
        tensors = {f"model/{name}": tensor for name, tensor in whole_weights(module).items()}
        moments = _whole_optimizer(module, optimizer.optimizer, ON_THE_FIRST).get("state", {})
        for name, values in moments.items():
            tensors |= {f"optimizer/{name}/{moment}": value for moment, value in values.items()}
        if accelerator.is_main_process:
            # clones, since safetensors refuses tied weights
            _write(
                folder, {name: tensor.detach().clone() for name, tensor in tensors.items()}, rest
            )
    accelerator.wait_for_everyone()


def load_state(
    accelerator: Accelerator, folder: Path, module: nn.Module, optimizer: Any
) -> dict[str, Any] | None:
    """Restore what `save_state` wrote, and give its `rest`; None if there is no state.

    Raises
    ------
    InputError
        If the state was written with DeepSpeed and this run goes without, or the other way.
    """
    path, zero = folder / STATE, deepspeed.is_used(accelerator)
    if (path if zero else folder / deepspeed.LATEST).exists():
        raise InputError(
            f"The run in {folder} was started {'without' if zero else 'with'} DeepSpeed, "
            "whose states are its own; expected the same now, or another run folder."
        )
    if zero:
        return deepspeed.load(accelerator, folder)
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        rest: dict[str, Any] = json.loads(file.metadata()["rest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    set_model_state_dict(module, weights, options=EVERYWHERE)
    whole = _whole_optimizer(module, optimizer.optimizer, EVERYWHERE)
    for name, values in whole["state"].items():
        for moment in values:
            values[moment] = tensors[f"optimizer/{name}/{moment}"]
    set_optimizer_state_dict(module, optimizer.optimizer, whole, options=EVERYWHERE)
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
        # clones, since safetensors refuses tied weights
        whole = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        save_file(whole, beside, metadata={"rest": json.dumps(rest)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / STATE)
    except Exception as error:  # safetensors raises its own errors for a full disk
        beside.unlink(missing_ok=True)
        raise deepspeed.unwritten(folder, error) from error
