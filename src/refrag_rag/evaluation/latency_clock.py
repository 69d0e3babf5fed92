"""Timing on a machine that others use too: a run whose cores were taken away is measured again."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

FLOOR = 0.7  # of the cores; a run that had less of them was disturbed
SHARE = 0.9  # of what the best run of its kind had
TRIES = 4  # runs for one figure, the first included, unless told otherwise


@dataclass(frozen=True)
class Run:
    """One timed run.

    Attributes
    ----------
    seconds
        Wall time.
    cpu_share
        CPU time over wall time and threads.
    peak
        Bytes of memory at the peak, above those at the beginning.
    values
        What the work gave.
    """

    seconds: float
    cpu_share: float
    peak: int
    values: dict[str, float]


@dataclass
class Runs:
    """All runs of one kind.

    Attributes
    ----------
    threads
        Of PyTorch; 0 where the work is an accelerator's, and CPU time says nothing.
    tries
        Most runs for one figure.
    kept
        Runs that count.
    thrown_away
        How many did not, since a neighbour had the cores.
    disturbed
        How many of those kept would have been thrown away too, had there been tries left.
    """

    threads: int
    tries: int = TRIES
    kept: list[Run] = field(default_factory=list)
    thrown_away: int = 0
    disturbed: int = 0

    def measure(self, work: Callable[[], dict[str, float]]) -> None:
        """Run until the cores were ours, at most `tries` times."""
        for attempt in range(self.tries):
            run = timed(work, self.threads)
            fine = self.undisturbed(run)
            if fine or attempt == self.tries - 1:
                self.disturbed += not fine
                self.kept.append(run)
                return
            self.thrown_away += 1

    def undisturbed(self, run: Run) -> bool:
        """Whether a run had the cores, by its CPU time."""
        best = max([one.cpu_share for one in self.kept], default=0.0)
        return not self.threads or run.cpu_share >= max(FLOOR, SHARE * best)

    def spread(self, name: str) -> dict[str, float]:
        """Median, lowest and highest of a value."""
        found = [run.values[name] for run in self.kept if name in run.values]
        if not found:
            return {}
        return _spread(found)

    def beside(self, name: str, other: "Runs", others: str) -> dict[str, float]:
        """A value over another kind's, of runs right after one another; spread of these ratios."""
        pairs = zip(self.kept, other.kept, strict=True)
        found = [one.values[name] / two.values[others] for one, two in pairs]
        return _spread(found)

    def report(self) -> dict[str, Any]:
        """For JSON: every value's spread, and how the runs went."""
        names = sorted({name for run in self.kept for name in run.values})
        return {
            **{name: self.spread(name) for name in names},
            "peak_bytes": max(run.peak for run in self.kept),
            "cpu_shares": [round(run.cpu_share, 3) for run in self.kept],
            "runs": len(self.kept),
            "thrown_away": self.thrown_away,
            "disturbed": self.disturbed,
        }


def _spread(found: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def timed(work: Callable[[], dict[str, float]], threads: int) -> Run:
    """Run once. `work` gives named values; its wall time is added as ``seconds``."""
    _reset_peak()
    before = _memory()
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    values = work()
    synchronise()
    seconds = time.perf_counter() - wall
    share = (time.process_time() - cpu) / seconds / max(1, threads)
    peak = max(0, _peak() - before)
    return Run(seconds, share, peak, {"seconds": seconds, **values})


def synchronise() -> None:
    """Wait for the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _status("VmRSS")


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    """Bytes of a field of this process's status; 0 where the system has none."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = [line.split() for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(found[0][1]) * 1024 if found else 0


def load_average() -> float | None:
    """Processes that wanted a core during the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
