"""Pictures of a training run, as PNG files. They need ``pip install 'refrag-rag[train]'``.

The lines are those of a run's ``log.jsonl``. What a line lacks, and what is not a number, is left
out of the curves.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import InputError
from refrag_rag.training.canvas import (
    COLOURS,
    MARKERS,
    label_axes,
    new_figure,
    save,
    stacked_axes,
)
from refrag_rag.training.lengths import STAGES, stage_counts
from refrag_rag.training.log_figures import Line, length_figures, level_figures, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[float, float]]

UNIT = "nats per token"
MANY, MEAN = 40, 10  # more points are drawn pale, under their running mean


def plot_curriculum(maximum: int, k: int, path: Path) -> None:
    """Table 8 for contexts of up to `maximum` chunks of `k` tokens: a heat map over the stages.

    Colours give shares of a stage, the figures in the cells are data points.

    Raises
    ------
    InputError
        If maximum or k is below one.
    """
    if k < 1:
        raise InputError(f"Chunks of {k} tokens; expected at least 1.")
    counts = stage_counts(maximum)
    rows = list(counts.values())
    sums = [max(1, sum(row[stage] for row in rows)) for stage in range(STAGES)]
    shares = [[100 * row[stage] / sums[stage] for stage in range(STAGES)] for row in rows]
    title = f"Data points of each context length ({'' if maximum == 256 else 'after '}Table 8)"
    figure = new_figure(height=2.0 + 0.36 * len(rows))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", aspect="auto", origin="lower", vmin=0)
    highest = max(map(max, shares))
    for y, row in enumerate(rows):
        for x, count in enumerate(row):
            light = shares[y][x] < 0.55 * highest
            axes.text(
                x, y, f"{count}", ha="center", va="center", color="white" if light else "black"
            )
    axes.set_xticks(range(STAGES), [str(stage + 1) for stage in range(STAGES)])
    axes.set_yticks(range(len(rows)), [f"{length} x {k} = {length * k:,}" for length in counts])
    label_axes(axes, title, "stage", "context (tokens)")
    figure.colorbar(image, ax=axes, label="share of the stage (%)")
    save(figure, path)


def plot_losses(lines: Sequence[Line], path: Path, *, unit: str = UNIT) -> None:
    """Loss and target loss over the steps, and the learning rate below where it was logged.

    The target loss is the current level's, or the mean of all context lengths drawn so far.

    Raises
    ------
    InputError
        If no line has a loss.
    """
    loss, target = _curve(lines, lambda line: line.get("loss")), _curve(lines, _target_loss)
    rate = _curve(lines, lambda line: line.get("lr"))
    if not loss and not target:
        raise InputError(f"None of {len(lines)} lines has a loss; expected a number as 'loss'.")
    figure = new_figure(height=5.0 if rate else 4.0)
    axes, *below = stacked_axes(figure, [3.2, 1.0] if rate else [1.0])
    for curve, colour, name in (
        (loss, COLOURS[0], "loss"),
        (target, COLOURS[1], "target loss"),
    ):
        if curve:
            _draw(axes, curve, colour=colour, name=name)
    axes.legend(frameon=False)
    label_axes(axes, "Training loss", "" if rate else "step", f"loss ({unit})")
    for under in below:
        _draw(under, rate, colour=COLOURS[2], name="learning rate", marker="", mean=False)
        under.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        label_axes(under, "", "step", "learning rate")
    save(figure, path)


def plot_lengths(lines: Sequence[Line], path: Path) -> None:
    """Accuracy and loss of reconstruction over the steps, one curve a context length.

    Raises
    ------
    InputError
        If no line has figures of lengths.
    """
    _groups(lines, length_figures, path, title="Reconstruction by context length", legend="chunks")


def plot_levels(lines: Sequence[Line], path: Path) -> None:
    """Accuracy and loss of the targets over the steps, one curve a level of the curriculum.

    Raises
    ------
    InputError
        If no line has figures of levels.
    """
    _groups(lines, level_figures, path, title="Targets by level", legend="level")


def _groups(
    lines: Sequence[Line],
    figures: Callable[[Line], dict[int, tuple[float | None, float | None]]],
    path: Path,
    *,
    title: str,
    legend: str,
) -> None:
    steps = [(number(line.get("step")), figures(line)) for line in lines]
    rows = [(step, found) for step, found in steps if step is not None and found]
    if not rows:
        raise InputError(f"None of {len(lines)} lines has figures for '{title}'; nothing to draw.")
    figure = new_figure(height=6.0)
    upper, lower = stacked_axes(figure, [1.0, 1.0])
    names = sorted({name for _, found in rows for name in found})
    for place, (name, colour) in enumerate(zip(names, _shades(len(names)), strict=True)):
        for part, axes, scale in ((0, upper, 100.0), (1, lower, 1.0)):
            known = [(step, found[name][part]) for step, found in rows if name in found]
            curve = [(step, scale * value) for step, value in known if value is not None]
            if curve:
                marker = MARKERS[place % len(MARKERS)]
                _draw(axes, curve, colour=colour, name=str(name), marker=marker, mean=False)
    upper.set_ylim(0, 102)
    label_axes(upper, title, "", "accuracy (%)")
    label_axes(lower, "", "step", f"loss ({UNIT})")
    drawn = upper if upper.lines else lower
    drawn.legend(frameon=False, title=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, path)


def _shades(count: int) -> list[Any]:
    """Colours from dark to light for what has an order; viridis' end is too pale on white."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"]
    return [shades(0.92 * place / max(1, count - 1)) for place in range(count)]


def _target_loss(line: Line) -> float | None:
    """Of the current level, or the mean over the lengths that were drawn."""
    value, level = line.get("target_loss"), line.get("level")
    if isinstance(value, list):
        known = level_figures(line).get(level) if isinstance(level, int) else None
        return known[1] if known else None
    if isinstance(value, Mapping):
        losses = [loss for _, loss in length_figures(line).values() if loss is not None]
        return sum(losses) / len(losses) if losses else None
    return number(value)


def _curve(lines: Sequence[Line], value: Callable[[Line], object]) -> Curve:
    pairs = [(number(line.get("step")), number(value(line))) for line in lines]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _running_mean(values: Sequence[float]) -> list[float]:
    starts = [max(0, stop - MEAN) for stop in range(1, len(values) + 1)]
    return [sum(values[a : n + 1]) / (n + 1 - a) for n, a in enumerate(starts)]


def _draw(
    axes: "Axes",
    curve: Curve,
    *,
    colour: Any,
    name: str,
    marker: str = "o",
    mean: bool = True,
) -> None:
    steps, values = zip(*curve, strict=True)
    every = max(1, len(curve) // 12)
    pale = mean and len(curve) > MANY
    axes.plot(
        steps,
        values,
        color=colour,
        alpha=0.3 if pale else 1.0,
        linewidth=1.0 if pale else 1.8,
        marker="" if pale else marker,
        markevery=every,
        markersize=5,
        label=f"_{name}" if pale else name,
    )
    if pale:
        label = f"{name}, mean of {MEAN} lines"
        axes.plot(steps, _running_mean(values), color=colour, linewidth=2, label=label)
