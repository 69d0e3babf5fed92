"""The one training loop: step, log, save, resume. Stages differ in data, loss and what moves."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from refrag_rag.training.loss import Metrics

logger = logging.getLogger(__name__)
STATE = "state.safetensors"


class Record(Protocol):
    """A curriculum as the loop sees it: it takes note of results and can be saved."""

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the target loss and accuracy of the step."""

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes
    ----------
    steps
        Optimizer steps of the stage.
    lr
        Peak learning rate: linear warm-up, constant, linear to zero over the last `decay` share.
    minutes
        Stop early after so much wall time, with the learning-rate decay brought forward.
    """

    steps: int
    lr: float
    warmup: int = 100
    decay: float = 0.2
    weight_decay: float = 0.05
    clip: float = 1.0
    save_every: int = 200
    seed: int = 0
    minutes: float | None = None


class Progress:
    """How far a stage is, in steps or in minutes, whichever is further."""

    def __init__(self, config: LoopConfig, step: int, seconds: float) -> None:
        self.config, self.step, self.seconds = config, step, seconds

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        by_time = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return max(self.step / self.config.steps, by_time)

    @property
    def lr_factor(self) -> float:
        """Warm-up, constant, then linear to zero."""
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return warm * min(1.0, max(0.0, 1 - self.share) / self.config.decay)


def train(
    model: nn.Module,
    *,
    trainable: Iterable[nn.Parameter],
    loss: Callable[[nn.Module, Random, float], Metrics],
    curriculum: Record,
    config: LoopConfig,
    folder: Path,
) -> nn.Module:
    """Train until the steps or the minutes are used up, resuming from `folder` if it has a state.

    Parameters
    ----------
    model
        The model; only `trainable` gets gradients.
    loss
        Called with the model, a generator seeded by the step and the share done (0 to 1); returns
        weighted loss, target loss, target accuracy.
    curriculum
        Told the result of every step.
    folder
        Where the log and the state for resuming are written, the latter renamed into place.
    """
    torch.set_flush_denormal(True)
    moving, optimizer = _optimizer(model, trainable, config)
    accelerator = Accelerator()
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = _resume(folder, accelerator.unwrap_model(model), optimizer, curriculum, config)
    bar = tqdm(total=config.steps, initial=progress.step, desc=folder.name, mininterval=10)
    while progress.share < 1:
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * progress.lr_factor
        rng = Random(f"{config.seed}-{progress.step}")
        value, target_loss, accuracy = loss(model, rng, progress.share)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(moving, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        curriculum.record(float(target_loss), float(accuracy))
        progress = Progress(
            config, progress.step + 1, progress.seconds + time.monotonic() - started
        )
        bar.update()
        _log(folder, progress, float(value.detach()), curriculum)
        if progress.step % config.save_every == 0 or progress.share >= 1:
            _save(folder, accelerator.unwrap_model(model), optimizer, curriculum, progress)
    bar.close()
    return accelerator.unwrap_model(model)  # type: ignore[no-any-return]


def _optimizer(
    model: nn.Module, trainable: Iterable[nn.Parameter], config: LoopConfig
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    moving = list(trainable)
    model.requires_grad_(False)
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        moving, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    return moving, optimizer


def _log(folder: Path, progress: Progress, value: float, curriculum: Record) -> None:
    if progress.step % 20:
        return
    folder.mkdir(parents=True, exist_ok=True)
    line = {
        "step": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "loss": round(value, 4),
        **curriculum.summary(),
    }
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    curriculum: Record,
    progress: Progress,
) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for place, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{place}/{name}": tensor for name, tensor in moments.items()}
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # tied weights too
    rest = {
        "curriculum": curriculum.state(),
        "step": progress.step,
        "seconds": progress.seconds,
        "config": asdict(progress.config),
    }
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{STATE}.part"
    save_file(tensors, beside, metadata={"rest": json.dumps(rest)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(folder / STATE)


def _resume(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    curriculum: Record,
    config: LoopConfig,
) -> Progress:
    path = folder / STATE
    if not path.exists():
        return Progress(config, 0, 0.0)
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()["rest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    model.load_state_dict(weights)
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, place = name.partition("/")
        if kind == "optimizer":
            number, _, moment = place.partition("/")
            moments.setdefault(int(number), {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    curriculum.restore(rest["curriculum"])
    logger.info("resuming %s at step %d", folder, rest["step"])
    return Progress(config, rest["step"], rest["seconds"])
