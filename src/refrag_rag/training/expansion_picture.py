"""How well policies spend a budget, as a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_rag.errors import InputError
from refrag_rag.training.canvas import COLOURS, MARKERS, label_axes, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    figure = new_figure(height=4.5)
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
    label_axes(
        axes,
        "Selective expansion",
        "effective compression rate k / (1 - p + kp) (tokens per position)",
        measure,
    )
    save(figure, path)


def _interval(axes: "Axes", points: Sequence[ExpansionPoint], colour: str) -> None:
    known = [(p.rate, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if not known:
        return
    rates, lows, highs = zip(*known, strict=True)
    axes.vlines(rates, lows, highs, color=colour, alpha=0.6, linewidth=1.5)
    if len(known) > 1:
        axes.fill_between(rates, lows, highs, color=colour, alpha=0.15, linewidth=0)
