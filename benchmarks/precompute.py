"""Indexing, from texts to entries in a store on disk, against a bare loop of the same encoder.

The bare loop gets its batches sorted, cut and padded beforehand.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from torch import nn

from benchmarks.harness import System, median, new_store, parser, run, settings, summary, table
from benchmarks.models import about, load
from benchmarks.prompts import Passages
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.model import RefragModel

LENGTHS = (64, 256)  # tokens of a passage, evenly between


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides, and write the report."""
    model = load(options.model, 16, device=options.device, dtype=options.dtype)
    passages, rng = Passages(model), Random(0)
    texts = [passages.passage(rng.randint(*LENGTHS)) for _ in range(options.passages)]
    systems: dict[str, System] = {
        "ours": partial(index, model, texts, options.batch_size),
        "bare": bare_loop(model, texts, options.batch_size),
    }
    rows = run(systems, options.rounds)
    report: dict[str, Any] = {
        **settings(options), **machine(), **about(model), "lengths": LENGTHS,
        **{name: summary(rows, name) for name in systems},
    }  # fmt: skip
    ours, bare = (median(report, name, "seconds") for name in systems)
    report["share_of_bare"] = bare / ours
    write_json(report, options.json)
    return report


def index(model: RefragModel, texts: Sequence[str], batch_size: int) -> dict[str, float]:
    """Encode all texts into a new store."""
    with new_store() as store:
        engine = Refrag(model, store=store, policy="none")
        report = engine.precompute(texts, batch_size=batch_size)
    return {"encoded": report.encoded}


def bare_loop(model: RefragModel, texts: Sequence[str], batch_size: int) -> System:
    """Batches of equal length as far as can be, ready on the device."""
    encoder = model.encoder
    passages = [model.chunker.chunk(text) for text in texts]
    windows = sorted((w for p in passages for w in encoder.windows(p)), key=lambda w: len(w.ids))
    batches = []
    for start in range(0, len(windows), batch_size):
        rows = [torch.tensor(window.ids) for window in windows[start : start + batch_size]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(encoder.model.device)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        batches.append((ids, mask))

    @torch.inference_mode()
    def system() -> dict[str, float]:
        for ids, mask in batches:
            encoder.model(input_ids=ids, attention_mask=mask)
        return {}

    return system


def markdown(report: Mapping[str, Any]) -> str:
    """What was indexed, both sides, and the share."""
    low, high = report["lengths"]
    rows = []
    for name, label in (("ours", "text to store"), ("bare", "bare loop of the encoder")):
        found = report[name]["seconds"]
        seconds = f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        rows.append((label, seconds, f"{report['passages'] / found['median']:.1f}"))
    return (
        f"{report['passages']} passages of {low} to {high} tokens, batches of "
        f"{report['batch_size']} windows.\n\n"
        + table(("side", "seconds (median, lowest to highest)", "passages/s"), rows)
        + f"\nOurs reaches {report['share_of_bare']:.0%} of the bare loop.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print the table."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--passages", type=int, default=512, help="(default: 512)")
    made.add_argument("--batch-size", type=int, default=64, help="windows (default: 64)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
