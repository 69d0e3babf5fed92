"""An empty picture, its axes and its file. Needs ``pip install 'refrag-rag[train]'``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_rag.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which differ for every kind of colour vision; black and yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
INCHES, DPI = 8.0, 150


def new_figure(*, height: float) -> "Figure":
    """An empty picture, 8 inches wide; no state outside it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "Pictures need matplotlib, which is missing. Install it with "
            "`pip install 'refrag-rag[train]'`."
        ) from error
    return Figure(figsize=(INCHES, height), dpi=DPI, layout="constrained")


def stacked_axes(figure: "Figure", heights: Sequence[float]) -> list["Axes"]:
    """Axes one below the other, with one x axis."""
    grid = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    return [row[0] for row in grid]


def label_axes(axes: "Axes", title: str, x: str, y: str) -> None:
    """Title and names of the axes, in one size everywhere."""
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    if not axes.images:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", path: Path) -> None:
    """Write beside, then rename: a reader never sees half a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    beside = path.with_name(f"{path.name}.part")
    FigureCanvasAgg(figure)
    try:
        figure.savefig(beside, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
