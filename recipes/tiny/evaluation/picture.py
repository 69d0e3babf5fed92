"""How well policies spend a budget, as a picture: one curve a policy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.tiny.evaluation.perplexity import Point
from refrag_rag.errors import InputError, need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which differ for every kind of colour vision; black and yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_points(points: Sequence[Point], path: Path, *, measure: str) -> None:
    """What was measured over the effective compression rate, as a PNG file.

    Raises
    ------
    InputError
        If there is no point.
    MissingExtraError
        If matplotlib is not installed.
    """
    if not points:
        raise InputError("No points to draw; expected at least one of some policy.")
    need("train", "a picture", ("matplotlib",))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, policy in enumerate(dict.fromkeys(point.policy for point in points)):
        _curve(axes, [point for point in points if point.policy == policy], place)
    axes.legend(frameon=False, title="policy")
    axes.set_title("Selective expansion", fontsize=13, loc="left")
    rate = "effective compression rate k / (1 - p + kp) (tokens per position)"
    axes.set_xlabel(rate, fontsize=11)
    axes.set_ylabel(measure, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _curve(axes: "Axes", points: Sequence[Point], place: int) -> None:
    """Values with their intervals: bars, and a band between two points or more."""
    points = sorted(points, key=lambda point: point.rate)
    rates = [point.rate for point in points]
    lows, highs = [point.low for point in points], [point.high for point in points]
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    style = "-" if place < len(COLOURS) else "--"
    values = [point.value for point in points]
    axes.plot(rates, values, style, color=colour, marker=marker, label=points[0].policy)
    axes.vlines(rates, lows, highs, color=colour, alpha=0.6, linewidth=1.5)
    if len(points) > 1:
        axes.fill_between(rates, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _save(figure: "Figure", path: Path) -> None:
    """Write beside, then rename: a reader never sees half a picture."""
    beside = path.with_name(f"{path.name}.part")
    try:
        figure.savefig(beside, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
