"""The one training loop: step, log, save, resume. Stages differ in data, loss and what moves.

Launched alone it uses one device; launched by ``accelerate launch`` or ``torchrun`` every process
reads its share of the same global batch.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from refrag_rag.errors import InputError, TrainingError
from refrag_rag.model.compiling import compiled
from refrag_rag.training import deepspeed
from refrag_rag.training.drawing import Collate, Cutting, Drawing, Step
from refrag_rag.training.feedback import Watch
from refrag_rag.training.launch import open_accelerator
from refrag_rag.training.loss import Objective, next_token_loss
from refrag_rag.training.optimizer import build_optimizer, moving
from refrag_rag.training.progress import Progress
from refrag_rag.training.protocols import Item, Source
from refrag_rag.training.settings import LoopSettings, as_dict, check_same
from refrag_rag.training.state import load_state, save_state

logger = logging.getLogger(__name__)
LOG, SETTINGS = "log.jsonl", "settings.json"


def train(  # noqa: PLR0913 - what a stage is, by name
    module: nn.Module,
    *,
    source: Source,
    settings: LoopSettings,
    folder: Path,
    objective: Objective = next_token_loss,
    watch: Watch | None = None,
    collate: Collate | None = None,
    whole: bool = False,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> nn.Module:
    """Train until the steps, minutes or tokens are used up, resuming if `folder` has a state.

    The loss of a step is normalised by the tokens of the global batch, whatever its share.

    Parameters
    ----------
    module
        Called with batches; parameters that require a gradient are trained.
    folder
        Where log and state are written.
    watch
        What is read in between, on held-out text.
    collate
        Makes a micro-batch's tensors when it is drawn. None: the objective makes them.
    whole
        Whether the module's weights must stay whole on every process.
    rates
        Shares of the learning rate, by how parameters' names begin.

    Returns
    -------
    Module
        As prepared for the device or devices; see `whole_weights`.

    Raises
    ------
    InputError
        If the folder's state was made with other settings, if the launch configuration does not
        fit, if a compiler is asked for and missing, or workers where they cannot draw ahead;
        nothing is changed.
    TrainingError
        If the loss is no longer a number, or the state cannot be written. The last state is kept.
    """
    torch.set_flush_denormal(True)
    accelerator = open_accelerator(settings, folder, whole=whole)
    cutting = Cutting(
        accelerator.process_index, accelerator.num_processes, settings.micro_batch, collate
    )
    drawing = Drawing(source, seed=settings.seed, cutting=cutting, workers=settings.workers)
    optimizer = build_optimizer(module, settings, rates)
    module, prepared = accelerator.prepare(module, optimizer)
    run = _Run(
        accelerator,
        module,
        prepared,
        source,
        drawing,
        settings,
        folder,
        objective,
        watch,
        Progress(settings),
    )
    with compiled(module, wanted=settings.compile), closing(drawing):
        run.resume()
        run.go()
    return module


@dataclass
class _Run:
    """One process's part in a run."""

    accelerator: Accelerator
    module: nn.Module
    optimizer: Any
    source: Source
    drawing: Drawing
    settings: LoopSettings
    folder: Path
    objective: Objective
    watch: Watch | None
    progress: Progress
    waited: float = 0.0

    def resume(self) -> None:
        """Go on from the folder's state, if there is one, and note the settings."""
        rest = None
        if (self.folder / SETTINGS).exists():
            check_same(self.settings, json.loads((self.folder / SETTINGS).read_text("utf-8")))
            rest = load_state(self.accelerator, self.folder, self.module, self.optimizer)
        elif self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(as_dict(self.settings), indent=2) + "\n"
            (self.folder / SETTINGS).write_text(text, encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if rest is not None:
            self.source.restore(rest["source"])
            self.drawing.restore(rest["drawing"])
            self.progress = Progress(self.settings, *rest["progress"])
            logger.info("resuming %s at step %d", self.folder, self.progress.step)

    def go(self) -> None:
        """All steps that are left."""
        bar = tqdm(
            total=self.settings.steps,
            initial=self.progress.step,
            desc=self.folder.name,
            mininterval=10,
            disable=not self.accelerator.is_main_process,
        )
        while self.progress.share < 1:
            if self.watch is not None and self.progress.step % self.watch.every == 0:
                self._look(self.watch)
            self._step()
            bar.update()
            if self.progress.step % self.settings.save_every == 0 or self.progress.share >= 1:
                self._save()
        bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _step(self) -> None:
        started = time.monotonic()
        progress, lr = self.progress, self.progress.lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        seed, process = self.settings.seed, self.accelerator.process_index
        # random numbers depend on the step alone; dropout differs between processes
        torch.manual_seed((seed << 40) + (progress.step << 12) + process)
        asked = time.monotonic()
        step = self.drawing.next(progress.step, progress.share)
        self.waited += time.monotonic() - asked
        sums = self._accumulate(step)
        norm = self.accelerator.clip_grad_norm_(moving(self.module), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # a GPU is waited for only here, when all of the step is under way
        loss, target_loss, right, targets = self.accelerator.reduce(sums, "sum").tolist()
        loss /= step.weight
        self._check_finite(loss, step.rows)
        nothing = float("nan")
        self.source.record(*(x / targets if targets else nothing for x in (target_loss, right)))
        self.progress = Progress(
            self.settings,
            progress.step + 1,
            progress.seconds + self._agreed(time.monotonic() - started),
            progress.tokens + step.tokens,
        )
        self._log(loss, lr, float(norm), step.fill)

    def _agreed(self, seconds: float) -> float:
        """The first process's clock, by which all draw and end: else they would drift apart."""
        if self.accelerator.num_processes == 1:
            return seconds
        clock = torch.tensor(seconds, device=self.accelerator.device)
        return float(broadcast(clock))

    @torch.no_grad()
    def _look(self, watch: Watch) -> None:
        """Tell the curriculum the held-out figures of every length."""
        for length, rows in watch.examples().items():
            sums = [
                self.objective(self.module, part, rows) for part in self.drawing.cutting.parts(rows)
            ]
            added = torch.stack([torch.stack([v.double() for v in one]) for one in sums]).sum(0)
            _, loss, right, targets = self.accelerator.reduce(added, "sum").tolist()
            watch.curriculum.observe(length, loss / targets, right / targets)

    def _accumulate(self, step: Step) -> Tensor:
        """Gradients of a step, and this process's sums."""
        if not step.weight:
            raise InputError(
                f"Step {self.progress.step} has no token to learn from; expected text longer than "
                "one chunk. Look at the data."
            )
        count = self.accelerator.num_processes
        found = []
        for place, part in enumerate(step.parts):
            later = place < len(step.parts) - 1
            with self._gathering(later=later):
                one = self.objective(self.module, part, step.rows)
                # gradients are averaged over processes: undo it
                self.accelerator.backward(one.loss * (count / step.weight))
            found.append(torch.stack([value.detach().double() for value in one]))
        return torch.stack(found).sum(0)

    def _gathering(self, *, later: bool) -> AbstractContextManager[Any]:
        """Whether gradients are kept for a later micro-batch of the same step."""
        if deepspeed.is_used(self.accelerator):  # it steps by itself where gradients are complete
            self.accelerator.sync_gradients = not later
            return nullcontext()
        return self.accelerator.no_sync(self.module) if later else nullcontext()

    def _check_finite(self, loss: float, rows: Sequence[Item]) -> None:
        if math.isfinite(loss):
            return
        origins = list(dict.fromkeys(row.origin for row in rows if row.origin))
        raise TrainingError(
            f"The loss of step {self.progress.step} is {loss}; its rows: "
            f"{', '.join(origins[:8]) or 'made by the seed and the step'}. The last state in "
            f"{self.folder} is kept: lower the learning rate or look at these rows, and go on."
        )

    def _log(self, loss: float, lr: float, norm: float, fill: float) -> None:
        progress = self.progress
        if progress.step % self.settings.log_every or not self.accelerator.is_main_process:
            return
        line: dict[str, Any] = {
            "step": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "tokens": progress.tokens,
            "loss": round(loss, 6),
            "lr": lr,
            "norm": round(norm, 4),
            "fill": round(fill, 3),
            "waited": round(self.waited, 4),  # seconds, for rows, since this process began
            **self.source.summary(),
        }
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.log(dict(_scalars(line)), step=progress.step)

    def _save(self) -> None:
        progress = self.progress
        rest = {
            "source": self.source.state(),
            "drawing": self.drawing.state(),
            "progress": [progress.step, progress.seconds, progress.tokens],
        }
        save_state(
            self.accelerator, self.folder, self.module, self.optimizer, rest, step=progress.step
        )


def _scalars(figures: Mapping[Any, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a line of the log, those of a group by ``group/name``; not the step itself."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{group}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{group}{name}", value
