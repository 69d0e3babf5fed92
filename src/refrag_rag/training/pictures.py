"""Pictures of a training run, as PNG files. They need ``pip install 'refrag-rag[train]'``.

The lines are those of a run's ``log.jsonl``. What a line lacks, and what is not a number, is left
out of the curves.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import InputError
from refrag_rag.training.lengths import STAGES, stage_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]
Curve = list[tuple[float, float]]

# Okabe and Ito's colours, which differ for every kind of colour vision; black and yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
UNIT = "nats per token"
INCHES, DPI = 8.0, 150
MANY, MEAN = 40, 10  # more points are drawn pale, under their running mean


@dataclass(frozen=True, kw_only=True)
class ExpansionPoint:
    """What was measured with one policy at one share of expanded chunks.

    Attributes
    ----------
    policy
        Its name.
    k
        Tokens a chunk.
    p
        Share of the chunks that stay text, 0 to 1.
    value
        The figure: a log-perplexity, an accuracy.
    low, high
        Its interval, if there is one.

    Raises
    ------
    InputError
        If k or p is out of range, or the value is not a number.
    """

    policy: str
    k: int
    p: float
    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.k < 1 or not 0 <= self.p <= 1:
            raise InputError(f"k = {self.k}, p = {self.p}; expected k >= 1 and p of 0 to 1.")
        if not math.isfinite(self.value):
            raise InputError(f"{self.policy} at p = {self.p}: {self.value}; expected a number.")

    @property
    def rate(self) -> float:
        """Tokens for each position of the decoder: k / (1 - p + k p) (REFRAG, section 2)."""
        return self.k / (1 - self.p + self.k * self.p)


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
    figure = _figure(height=2.0 + 0.36 * len(rows))
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
    _label(axes, title, "stage", "context (tokens)")
    figure.colorbar(image, ax=axes, label="share of the stage (%)")
    _save(figure, path)


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
    figure = _figure(height=5.0 if rate else 4.0)
    axes, *below = _rows(figure, [3.2, 1.0] if rate else [1.0])
    for curve, colour, name in (
        (loss, COLOURS[0], "loss"),
        (target, COLOURS[1], "target loss"),
    ):
        if curve:
            _draw(axes, curve, colour=colour, name=name)
    axes.legend(frameon=False)
    _label(axes, "Training loss", "" if rate else "step", f"loss ({unit})")
    for under in below:
        _draw(under, rate, colour=COLOURS[2], name="learning rate", marker="", mean=False)
        under.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _label(under, "", "step", "learning rate")
    _save(figure, path)


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


def plot_expansion(
    points: Sequence[ExpansionPoint], path: Path, *, measure: str = "log-perplexity (nats)"
) -> None:
    """What was measured over the effective compression rate, one curve a policy.

    Intervals are drawn as bands where two points of a policy or more have them, and as bars.

    Raises
    ------
    InputError
        If there is no point.
    """
    if not points:
        raise InputError("No points to draw; expected at least one of some policy.")
    figure = _figure(height=4.5)
    axes = figure.add_subplot()
    for place, policy in enumerate(dict.fromkeys(point.policy for point in points)):
        chosen = sorted((p for p in points if p.policy == policy), key=lambda point: point.rate)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        style = "-" if place < len(COLOURS) else "--"
        axes.plot(
            [point.rate for point in chosen],
            [point.value for point in chosen],
            color=colour,
            marker=marker,
            linestyle=style,
            label=policy,
        )
        _interval(axes, chosen, colour)
    axes.legend(frameon=False, title="policy")
    _label(
        axes,
        "Selective expansion",
        "effective compression rate k / (1 - p + kp) (tokens per position)",
        measure,
    )
    _save(figure, path)


def _interval(axes: "Axes", points: Sequence[ExpansionPoint], colour: str) -> None:
    known = [(p.rate, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if not known:
        return
    rates, lows, highs = zip(*known, strict=True)
    axes.vlines(rates, lows, highs, color=colour, alpha=0.6, linewidth=1.5)
    if len(known) > 1:
        axes.fill_between(rates, lows, highs, color=colour, alpha=0.15, linewidth=0)


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
    figure = _figure(height=6.0)
    upper, lower = _rows(figure, [1.0, 1.0])
    names = sorted({name for _, found in rows for name in found})
    for place, (name, colour) in enumerate(zip(names, _shades(len(names)), strict=True)):
        for part, axes, scale in ((0, upper, 100.0), (1, lower, 1.0)):
            known = [(step, found[name][part]) for step, found in rows if name in found]
            curve = [(step, scale * value) for step, value in known if value is not None]
            if curve:
                marker = MARKERS[place % len(MARKERS)]
                _draw(axes, curve, colour=colour, name=str(name), marker=marker, mean=False)
    upper.set_ylim(0, 102)
    _label(upper, title, "", "accuracy (%)")
    _label(lower, "", "step", f"loss ({UNIT})")
    drawn = upper if upper.lines else lower
    drawn.legend(frameon=False, title=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


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


def _figure(*, height: float) -> "Figure":
    """An empty picture, 8 inches wide; no state outside it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "Pictures need matplotlib, which is missing. Install it with "
            "`pip install 'refrag-rag[train]'`."
        ) from error
    return Figure(figsize=(INCHES, height), dpi=DPI, layout="constrained")


def _rows(figure: "Figure", heights: Sequence[float]) -> list["Axes"]:
    grid = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    return [row[0] for row in grid]


def _label(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    if not axes.images:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def _save(figure: "Figure", path: Path) -> None:
    """Write beside, then rename: a reader never sees half a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    beside = path.with_name(f"{path.name}.part")
    FigureCanvasAgg(figure)
    try:
        figure.savefig(beside, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
