"""Scores of the arms with their intervals, and the table that people read."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refrag_rag.evaluation.answers import Row
from refrag_rag.evaluation.arms import FULL
from refrag_rag.evaluation.metrics import bootstrap


def score_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One score for every arm and k, on the questions that all of them answered.

    Returns
    -------
    list of dict
        ``exact`` and ``f1`` (shares) with 95% bootstrap intervals; ``exact_to_full`` and
        ``f1_to_full``, the mean difference to the full text with its paired interval, where that
        was read; mean ``positions``; median ``ttft_s``.
    """
    arms: dict[tuple[str, int], dict[int, Row]] = {}
    for row in rows:
        arms.setdefault((row.arm, row.k), {})[row.question] = row
    if not arms:
        return []
    common = sorted(set.intersection(*(set(found) for found in arms.values())))
    full = arms.get((FULL, 0))
    return [
        _score(arm, k, [found[n] for n in common], [full[n] for n in common] if full else None)
        for (arm, k), found in arms.items()
        if common
    ]


def markdown(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """One table a file."""
    for name, rows in files.items():
        count = rows[0]["questions"] if rows else 0
        lines = [
            f"**{name}**, {count} questions\n",
            "| reads | k | exact match | to full text | F1 | positions | first token |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            low, high = row["exact_interval"]
            lines.append(
                f"| {row['arm']} | {row['k'] or ''} | {_percent(row['exact'])} ({_percent(low)} to "
                f"{_percent(high)}) | {_difference(row.get('exact_to_full'))} "
                f"| {_percent(row['f1'])} | {row['positions']:.0f} | {row['ttft_s']:.2f} s |"
            )
        yield "\n".join(lines) + "\n"


def _score(arm: str, k: int, rows: Sequence[Row], full: Sequence[Row] | None) -> dict[str, Any]:
    score: dict[str, Any] = {"arm": arm, "k": k, "questions": len(rows)}
    for name in ("exact", "f1"):
        values = np.array([getattr(row, name) for row in rows], float)
        score[name] = float(values.mean())
        score[f"{name}_interval"] = bootstrap(values)
        if full is not None and arm != FULL:
            differences = values - np.array([getattr(row, name) for row in full], float)
            score[f"{name}_to_full"] = (float(differences.mean()), *bootstrap(differences))
    score["positions"] = statistics.fmean(row.positions for row in rows)
    score["ttft_s"] = statistics.median(row.ttft_s for row in rows)
    return score


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _difference(found: Sequence[float] | None) -> str:
    if found is None:
        return ""
    mean, low, high = (f"{100 * value:+.1f}" for value in found)
    return f"{mean} ({low} to {high})"
