"""One clock for all benchmarks: systems take turns, and the machine is described in one way."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from refrag_rag.store import LMDBStore

System = Callable[[], Mapping[str, float]]
"""What is timed; gives values of its own, such as the time to the first token."""
Row = dict[str, Any]
Spread = dict[str, float]


def run(
    systems: Mapping[str, System], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[Row]:
    """Time every system once a round, one right after another, so that a neighbour slows all.

    A run of each before the first round is not kept.

    Returns
    -------
    list of dict
        One row a run: ``system``, ``round``, ``seconds``, what the system gave, and on a CUDA
        device ``peak_bytes``, allocated above what was before.
    """
    for system in systems.values():
        system()
    rows = []
    for number in range(rounds):
        for name, system in systems.items():
            before = _reset_peak()
            started = clock()
            values = system()
            synchronise()
            seconds = clock() - started
            row = {"system": name, "round": number, "seconds": seconds, **values}
            rows.append(row | _peak(before))
    return rows


def summary(rows: Sequence[Row], system: str) -> dict[str, Any]:
    """Median, lowest and highest of each value of a system; its ``runs``, and its largest peak."""
    own = [row for row in rows if row["system"] == system]
    names = dict.fromkeys(name for row in own for name in row)
    found: dict[str, Any] = {
        name: spread([row[name] for row in own if name in row])
        for name in names
        if name not in ("system", "round", "peak_bytes")
    }
    if "peak_bytes" in names:
        found["peak_bytes"] = max(row["peak_bytes"] for row in own)
    return found | {"runs": len(own)}


def ratio(rows: Sequence[Row], above: tuple[str, str], below: tuple[str, str]) -> Spread:
    """One system's value over another's, round by round; each is given as (system, value)."""
    upper, lower = (
        {row["round"]: row[value] for row in rows if row["system"] == system}
        for system, value in (above, below)
    )
    return spread([upper[number] / lower[number] for number in upper])


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def median(report: Mapping[str, Any], *path: str) -> float:
    """The median that stands in a report under these names."""
    found: Any = report
    for name in (*path, "median"):
        found = found[name]
    return float(found)


def synchronise() -> None:
    """Wait for the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def columns(rows: Sequence[Mapping[str, Any]], templates: Mapping[str, str]) -> str:
    """A Markdown table by templates of `str.format`; columns that no row fills are left out."""
    filled = {
        head: [_filled(template, row) for row in rows] for head, template in templates.items()
    }
    shown = {head: cells for head, cells in filled.items() if set(cells) != {"-"}}
    return table(list(shown), zip(*shown.values(), strict=True))


def parser(about: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Arguments that all benchmarks have: model, device, rounds, and where the figures go."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument(
        "--model", default="smollm-135m",
        help="a shape with random weights (smollm-135m, llama-1b, llama-7b), or a checkpoint",
    )  # fmt: skip
    made.add_argument("--device", default="cpu", help="cpu, cuda ... (default: cpu)")
    made.add_argument("--dtype", help="float32, bfloat16 ... (default: float32 on CPUs)")
    made.add_argument(
        "--rounds", type=int, default=rounds, help=f"runs of each system (default: {rounds})"
    )
    made.add_argument("--json", type=Path, required=True, help="where to write the figures")
    return made


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, for a report: everything but where files lie."""
    return {name: one for name, one in vars(options).items() if not isinstance(one, Path)}


def _filled(template: str, row: Mapping[str, Any]) -> str:
    try:
        return template.format_map(row)
    except (KeyError, TypeError):  # it has no such value, or None
        return "-"


def _reset_peak() -> int:
    synchronise()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(before: int) -> dict[str, int]:
    if not torch.cuda.is_available():
        return {}
    return {"peak_bytes": torch.cuda.max_memory_allocated() - before}


@contextmanager
def new_store() -> Iterator[LMDBStore]:
    """A store on disk that is gone afterwards."""
    with TemporaryDirectory() as folder, LMDBStore(Path(folder) / "store") as store:
        yield store
