"""Figures in the lines of a run's ``log.jsonl``; what is missing or no number is left out."""

import math
from collections.abc import Mapping
from typing import Any

Line = Mapping[str, Any]


def length_figures(line: Line) -> dict[int, tuple[float | None, float | None]]:
    """Accuracy and loss of each length in chunks, where a line of the log has them.

    A stage that mixes tasks has them under "reconstruction". Two zeros stand for a length that was
    not drawn yet.
    """
    nested = line.get("reconstruction")
    block = nested if isinstance(nested, Mapping) else line
    accuracies, losses = block.get("accuracy"), block.get("target_loss")
    accuracies = accuracies if isinstance(accuracies, Mapping) else {}
    losses = losses if isinstance(losses, Mapping) else {}
    names = {str(n) for n in (*accuracies, *losses) if str(n).isdecimal()}
    found = {}
    for length in sorted(map(int, names)):
        pair = tuple(
            number(figures.get(str(length), figures.get(length)))
            for figures in (accuracies, losses)
        )
        if pair not in ((0.0, 0.0), (None, None)):
            found[length] = (pair[0], pair[1])
    return found


def level_figures(line: Line) -> dict[int, tuple[float | None, float | None]]:
    """Accuracy and loss of each level, counted from zero; two zeros stand for one not drawn yet."""
    accuracies, losses = line.get("target_accuracy"), line.get("target_loss")
    accuracies = accuracies if isinstance(accuracies, list) else []
    losses = losses if isinstance(losses, list) else []
    found = {}
    for level in range(max(len(accuracies), len(losses))):
        pair = tuple(
            number(figures[level]) if level < len(figures) else None
            for figures in (accuracies, losses)
        )
        if pair not in ((0.0, 0.0), (None, None)):
            found[level] = (pair[0], pair[1])
    return found


def number(value: object) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
