"""Weights or a KV cache in fewer bits: memory, times and right answers beside the exact ones.

The systems answer each question one right after another, so that a neighbour slows all.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import parser, settings, spread, table
from benchmarks.models import about
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import bootstrap, exact_match
from refrag_rag.evaluation.prompts import prompt
from refrag_rag.evaluation.questions import Question, rank_by_retriever, read_questions
from refrag_rag.evaluation.report import machine, where, write_json
from refrag_rag.evaluation.shrunk import stored_bytes
from refrag_rag.store import MemoryStore

EXACT = "none"
TOKENS = 24  # of an answer
Found = dict[str, list[float]]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Answer all questions with every loading, and write the report."""
    loadings: dict[str, dict[str, Any]] = {
        EXACT: {},
        **{name: {"quantization": name} for name in options.quantization},
        **{f"KV cache {name}": {"kv_cache": name} for name in options.kv_cache},
    }
    store = MemoryStore()  # chunk embeddings are those of one encoder
    engines = {
        name: Refrag.load(
            options.model,
            store=store,
            p=options.p,
            device=options.device,
            dtype=options.dtype,
            **one,
        )
        for name, one in loadings.items()
    }
    questions = rank_by_retriever(read_questions(options.data, limit=options.questions))
    found: dict[str, Found] = {name: {} for name in engines}
    for question in questions:
        engines[EXACT].precompute(question.passages)
        for name, engine in engines.items():
            for figure, value in _answer(engine, question).items():
                found[name].setdefault(figure, []).append(value)
    first = next(iter(engines.values())).model
    report = {
        "settings": settings(options), **machine(), **about(first),
        "cells": [_cell(name, engines[name], found[name], found[EXACT]) for name in engines],
    }  # fmt: skip
    write_json(report, options.json)
    return report


def _answer(engine: Refrag, question: Question) -> dict[str, float]:
    answer = engine.generate(prompt(question), max_new_tokens=TOKENS)
    later = len(answer.token_ids) - 1
    values = {
        "right": float(exact_match(answer.text, question.answers)),
        "ttft": answer.timings.ttft_s,
    }
    return values | ({"ttit": answer.timings.decode_s / later} if later else {})


def _cell(name: str, engine: Refrag, own: Found, exact: Found) -> dict[str, Any]:
    apart = np.array(own["right"]) - np.array(exact["right"])
    return {
        "loading": name,
        "decoder_bytes": stored_bytes(engine.model.decoder),
        "exact_match": float(np.mean(own["right"])),
        "difference": [float(np.mean(apart)), *bootstrap(apart)],
        "ttft": spread(own["ttft"]),
        "ttit": spread(own["ttit"]),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """A row for each loading, and where it was measured."""
    rows = [
        (
            one["loading"],
            f"{one['decoder_bytes'] / 1e6:.0f} MB",
            f"{one['ttft']['median'] * 1000:.0f} ms",
            f"{one['ttit']['median'] * 1000:.1f} ms",
            f"{one['exact_match']:.1%}",
            "{:+.1%} ({:+.1%} to {:+.1%})".format(*one["difference"]),
        )
        for one in report["cells"]
    ]
    asked = report["settings"]
    head = ("fewer bits for", "decoder", "TTFT", "TTIT", "exact match", "difference")
    return (
        f"`{asked['model']}`, {asked['questions']} questions, p = {asked['p']}, {report['dtype']}. "
        f"{where(report)}\n\n{table(head, rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print the table."""
    made = parser(__doc__, rounds=1)
    made.set_defaults(model="smol")
    made.add_argument("--data", required=True, help="questions, as for refrag eval")
    made.add_argument("--questions", type=int, default=200, help="(default: 200)")
    made.add_argument("--p", type=float, default=0.1, help="share of text (default: 0.1)")
    made.add_argument("--quantization", nargs="*", default=["int8"], help="(default: int8)")
    made.add_argument("--kv-cache", nargs="*", default=["fp8"], help="(default: fp8)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
