"""Scores of the arms with their intervals, and the table that people read."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refrag_rag.evaluation.answers import Row
from refrag_rag.evaluation.arms import FULL
from refrag_rag.evaluation.metrics import bootstrap


def score_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One score for every arm and k, on the questions that it answered.

    Returns
    -------
    list of dict
        ``questions``, how many; ``exact`` and ``f1`` (shares) with 95% bootstrap intervals;
        ``exact_to_full`` and ``f1_to_full``, the mean difference to the full text on the questions
        that both answered, with its paired interval; mean ``positions``; median ``ttft_s``
        of the questions that were answered one by one, or None.
    """
    arms: dict[tuple[str, int], dict[int, Row]] = {}
    for row in rows:
        arms.setdefault((row.arm, row.k), {})[row.question] = row
    full = arms.get((FULL, 0), {})
    return [_score(arm, k, found, full) for (arm, k), found in arms.items()]


def markdown(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """One table a file."""
    for name, rows in files.items():
        lines = [
            f"**{name}**\n",
            "| reads | k | questions | exact match | to full text | F1 | positions | first token |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            low, high = row["exact_interval"]
            lines.append(
                f"| {row['arm']} | {row['k'] or ''} | {row['questions']} "
                f"| {_percent(row['exact'])} ({_percent(low)} to {_percent(high)}) "
                f"| {_difference(row.get('exact_to_full'))} "
                f"| {_percent(row['f1'])} | {row['positions']:.0f} | {_seconds(row['ttft_s'])} |"
            )
        yield "\n".join(lines) + "\n"


def _score(arm: str, k: int, found: Mapping[int, Row], full: Mapping[int, Row]) -> dict[str, Any]:
    rows, both = list(found.values()), sorted(found.keys() & full.keys())
    score: dict[str, Any] = {"arm": arm, "k": k, "questions": len(rows)}
    for name in ("exact", "f1"):
        values = np.array([getattr(row, name) for row in rows], float)
        score[name] = float(values.mean())
        score[f"{name}_interval"] = bootstrap(values)
        if both and arm != FULL:
            pairs = [(float(getattr(found[n], name)), float(getattr(full[n], name))) for n in both]
            differences = np.array([ours - theirs for ours, theirs in pairs])
            score[f"{name}_to_full"] = (float(differences.mean()), *bootstrap(differences))
    score["positions"] = statistics.fmean(row.positions for row in rows)
    times = [row.ttft_s for row in rows if row.ttft_s is not None]
    score["ttft_s"] = statistics.median(times) if times else None
    return score


def _seconds(time: float | None) -> str:
    return "" if time is None else f"{time:.2f} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _difference(found: Sequence[float] | None) -> str:
    if found is None:
        return ""
    mean, low, high = (f"{100 * value:+.1f}" for value in found)
    return f"{mean} ({low} to {high})"
