"""The report of a run folder: its pictures, and the figures of its log in Markdown.

``python -m refrag_rag.training.report RUN_FOLDER``
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from refrag_rag.errors import InputError
from refrag_rag.training.expansion_picture import ExpansionPoint, plot_expansion
from refrag_rag.training.log_figures import Line, length_figures, level_figures, number
from refrag_rag.training.pictures import UNIT, plot_lengths, plot_levels, plot_losses

logger = logging.getLogger(__name__)
LOG, EXPANSION, REPORT = "log.jsonl", "expansion.json", "report.md"
SETTINGS = ("settings.yaml", "settings.json")


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The lines of a run, by step.

    Attributes
    ----------
    lines
        One a step, in the order of steps.
    skipped
        Lines that are no JSON object with a step: those that a killed run half wrote.
    repeated
        Lines that a later one of the same step took the place of: those of a resumed run.
    """

    lines: tuple[dict[str, Any], ...]
    skipped: int
    repeated: int


def read_log(path: Path) -> RunLog:
    """Read a run's log.

    Raises
    ------
    InputError
        If there is no such file, or no line in it is whole.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected the folder of a stage, with its {LOG}."
        ) from error
    texts = [text for text in raw.split(b"\n") if text.strip()]
    found = [line for line in map(_parse, texts) if line is not None]
    if not found:
        raise InputError(
            f"{path} has no whole line among {len(texts)}; expected one JSON object a line, with a "
            "step. Train until the first line is logged."
        )
    by_step = {line["step"]: line for line in found}  # the later one stays
    lines = tuple(by_step[step] for step in sorted(by_step))
    return RunLog(lines=lines, skipped=len(texts) - len(found), repeated=len(found) - len(by_step))


def read_points(path: Path) -> tuple[list[ExpansionPoint], str | None]:
    """Points of ``expansion.json`` and the name of what was measured.

    The file is ``{"measure": "...", "points": [{"policy": "random", "k": 8, "p": 0.1, "value":
    1.04, "low": 1.03, "high": 1.05}, ...]}``; measure and intervals may be missing, and other
    fields of a point are not looked at.

    Raises
    ------
    InputError
        If it is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        points = [_point(one) for one in found["points"]]
        measure = found.get("measure")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be used ({type(error).__name__}: {error}); expected points with "
            "policy, k, p and value. Write it again, or remove it."
        ) from error
    return points, None if measure is None else str(measure)


def write_report(folder: Path, *, unit: str = UNIT) -> Path:
    """Write ``report.md`` and its pictures into a run folder.

    ``loss.png``, ``lengths.png``, ``levels.png`` and ``expansion.png`` are drawn where the log, or
    ``expansion.json`` beside it, has the figures.

    Parameters
    ----------
    folder
        With a ``log.jsonl``, and perhaps ``settings.yaml`` or ``settings.json``.
    unit
        Of the logged losses.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    InputError
        If the log is missing or has no whole line, or ``expansion.json`` is not one. Nothing is
        written then.
    """
    log = read_log(folder / LOG)
    has_points = (folder / EXPANSION).exists()
    points, measure = read_points(folder / EXPANSION) if has_points else ([], None)
    sections = [*_overview(folder, log, unit), *_curves(folder, log.lines, unit)]
    if points:
        sections += _expansion(folder, points, measure)
    sections += _settings(folder)
    path = folder / REPORT
    beside = path.with_name(f"{REPORT}.part")
    beside.write_text("\n".join(sections).rstrip() + "\n", encoding="utf-8")
    os.replace(beside, path)
    logger.info("wrote %s", path)
    return path


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)  # UnicodeDecodeError is a ValueError
    except ValueError:
        return None
    whole = isinstance(line, dict) and number(line.get("step")) is not None
    return line if whole else None


def _point(found: Mapping[str, Any]) -> ExpansionPoint:
    low, high = found.get("low"), found.get("high")
    return ExpansionPoint(
        policy=str(found["policy"]),
        k=int(found["k"]),
        p=float(found["p"]),
        value=float(found["value"]),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


def _overview(folder: Path, log: RunLog, unit: str) -> Iterator[str]:
    last = log.lines[-1]
    yield f"# Stage `{folder.resolve().name}`\n"
    yield from _head("run", "")
    yield f"| steps | {last['step']:,} |"
    for name, title, digits in (("minutes", "minutes", 1), ("tokens", "tokens seen", 0)):
        known = _series(log.lines, name)
        if known:
            yield f"| {title} | {known[-1][1]:,.{digits}f} |"
    losses = _series(log.lines, "loss")
    if losses:
        best = min(losses, key=lambda pair: pair[1])
        for title, (step, value) in (("first", losses[0]), ("last", losses[-1]), ("best", best)):
            yield f"| {title} logged loss of a step ({unit}) | {value:.4f} at step {step:,} |"
    yield f"| lines of the log | {len(log.lines):,} |"
    if log.skipped:
        yield f"| skipped, half written | {log.skipped:,} |"
    if log.repeated:
        yield f"| replaced by a resumed run | {log.repeated:,} |"
    yield ""


def _curves(folder: Path, lines: Sequence[Line], unit: str) -> Iterator[str]:
    """Draw what the log has; sections that show it."""
    if _series(lines, "loss"):
        plot_losses(lines, folder / "loss.png", unit=unit)
        yield "## Loss\n\n![Loss over the steps](loss.png)\n"
    with_lengths = [line for line in lines if length_figures(line)]
    if with_lengths:
        plot_lengths(lines, folder / "lengths.png")
        yield "## Context lengths\n\n![Reconstruction by context length](lengths.png)\n"
        yield from _lengths(with_lengths[-1])
    with_levels = [line for line in lines if level_figures(line)]
    if with_levels:
        plot_levels(lines, folder / "levels.png")
        yield "## Levels\n\n![Targets by level](levels.png)\n"
        yield from _table(level_figures(with_levels[-1]), "level", str, with_levels[-1]["step"])


def _lengths(line: Line) -> Iterator[str]:
    nested = line.get("reconstruction")
    k = number((nested if isinstance(nested, Mapping) else line).get("k"))

    def title(length: int) -> str:
        return f"{length}" if k is None else f"{length} x {k:.0f} = {length * k:,.0f} tokens"

    yield from _table(length_figures(line), "chunks", title, line["step"])


def _table(
    figures: Mapping[int, tuple[float | None, float | None]],
    name: str,
    title: Callable[[int], str],
    step: float,
) -> Iterator[str]:
    yield f"As logged at step {step:,}: running means over training steps.\n"
    yield from _head(name, "accuracy", "loss (nats per token)")
    for place, (accuracy, loss) in figures.items():
        right = "" if accuracy is None else f"{accuracy:.1%}"
        yield f"| {title(place)} | {right} | {'' if loss is None else f'{loss:.3f}'} |"
    yield ""


def _expansion(
    folder: Path, points: Sequence[ExpansionPoint], measure: str | None
) -> Iterator[str]:
    if measure is None:
        plot_expansion(points, folder / "expansion.png")
    else:
        plot_expansion(points, folder / "expansion.png", measure=measure)
    yield "## Selective expansion\n\n![Figures over the compression rate](expansion.png)\n"
    yield from _head("policy", "k", "p", "effective rate", measure or "value", "interval")
    for point in sorted(points, key=lambda one: (one.policy, one.rate)):
        known = point.low is not None and point.high is not None
        interval = f"{point.low:.4f} to {point.high:.4f}" if known else ""
        yield (
            f"| {_cell(point.policy)} | {point.k} | {point.p:g} | {point.rate:.2f} "
            f"| {point.value:.4f} | {interval} |"
        )
    yield ""


def _settings(folder: Path) -> Iterator[str]:
    path = next((folder / name for name in SETTINGS if (folder / name).exists()), None)
    if path is None:
        return
    yield f"## Settings (`{path.name}`)\n"
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        yield f"The file cannot be read ({type(error).__name__}).\n"
        return
    yield from _head("setting", "value")
    for name, value in found.items() if isinstance(found, dict) else [("all", found)]:
        yield f"| {_cell(name)} | {_cell(value)} |"
    yield ""


def _head(*names: str) -> Iterator[str]:
    yield f"| {' | '.join(map(_cell, names))} |"
    yield f"|{'---|' * len(names)}"


def _cell(value: object) -> str:
    """A value inside a table's row: no bar and no line break ends it."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _series(lines: Sequence[Line], name: str) -> list[tuple[int, float]]:
    pairs = [(line["step"], number(line.get(name))) for line in lines]
    return [(step, value) for step, value in pairs if value is not None]


def main(arguments: list[str] | None = None) -> None:
    """Write the report of one run folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help=f"folder of a stage, with its {LOG}")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_report(options.folder)


if __name__ == "__main__":
    main()
