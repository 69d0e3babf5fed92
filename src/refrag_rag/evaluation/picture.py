"""Exact match over decoder positions: one panel a file, one line a method."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import need
from refrag_rag.evaluation.arms import CLOSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which differ for every kind of colour vision; black and yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_BUDGET = re.compile(r", (?:p = [\d.]+|\d+ positions|positions of .*)$")


def methods(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Scores of `score_rows` by method, each from few positions to many.

    Budgets of one policy are one method, and so are those of the best passages. Without `CLOSED`,
    and without embeddings of other passages, which are controls.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["arm"] == CLOSED or row["arm"].startswith("embeddings of"):
            continue
        name = _BUDGET.sub("", row["arm"])
        of_text = name.startswith("best passages") or not row["k"]
        found.setdefault(name if of_text else f"{name}, k = {row['k']}", []).append(row)
    return {name: sorted(one, key=lambda row: row["positions"]) for name, one in found.items()}


def plot_positions(files: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw a PNG file; intervals are 95%.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    need("train", "a picture", ("matplotlib",))
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for rows in files.values() for name in methods(rows)))
    figure = Figure(figsize=(5.2 * len(files), 4.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(files), squeeze=False)[0]
    for axes, (file, rows) in zip(panels, files.items(), strict=True):
        by_method = methods(rows)
        for place, name in enumerate(names):
            _line(axes, by_method.get(name, []), name, place)
        axes.set_title(file, loc="left", fontsize=11)
        axes.set_xscale("log")
        axes.set_xlabel("decoder positions of the prompt (mean)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("exact match, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def _line(axes: "Axes", rows: Sequence[Mapping[str, Any]], name: str, place: int) -> None:
    values = [100 * row["exact"] for row in rows]
    below = [100 * (row["exact"] - row["exact_interval"][0]) for row in rows]
    above = [100 * (row["exact_interval"][1] - row["exact"]) for row in rows]
    style = "-" if place < len(COLOURS) else "--"
    axes.errorbar(
        [row["positions"] for row in rows],
        values,
        yerr=(below, above),
        fmt=f"{MARKERS[place % len(MARKERS)]}{style}",
        color=COLOURS[place % len(COLOURS)],
        elinewidth=0.8,
        markersize=4,
        label=name,
    )
