"""The second turn of a chat, with and without the first turn's KV cache."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import median, new_store, parser, run, settings, summary
from benchmarks.models import about, load
from benchmarks.prompts import Passages, prompt_around
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.report import machine, write_json

NEXT = "\nAnd what is said of the second one, and where does it stand?\n"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time second turns with and without ``prompt_cache``, and write the report."""
    model = load(options.model, options.k, device=options.device, dtype=options.dtype)
    with new_store() as store:
        engines = {
            name: Refrag(model, store=store, policy="none", prompt_cache=int(name == "with"))
            for name in ("with", "without")
        }
        texts = Passages(model).passages(options.context)
        engines["with"].precompute(texts)
        first = prompt_around(engines["with"], texts)
        rows = run(
            {name: partial(second_turn, one, first) for name, one in engines.items()},
            options.rounds,
        )
    ours = next(row for row in rows if row["system"] == "with")
    report: dict[str, Any] = {
        **settings(options), **machine(), **about(model),
        "positions": ours["positions"], "reused": ours["reused"],
        "same_token": len({row["token"] for row in rows}) == 1,
        **{name: summary(rows, name) for name in engines},
    }  # fmt: skip
    write_json(report, options.json)
    return report


def second_turn(engine: Refrag, first: str) -> dict[str, float]:
    """Answer the first prompt with an empty cache, then time the next one."""
    engine.prompt_cache.clear()
    said = engine.generate(first, max_new_tokens=8).text
    answer = engine.generate(first + said + NEXT, max_new_tokens=1)
    return {
        "ttft": answer.timings.ttft_s,
        "token": answer.token_ids[0],
        "positions": answer.counts.positions,
        "reused": answer.counts.reused_positions,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Positions that were computed, and the ratio of the times to the first token."""
    ours, plain = (median(report, name, "ttft") for name in ("with", "without"))
    return (
        f"Second turn over {report['context']:,} context tokens, k = {report['k']}: "
        f"{report['positions']:,} positions, {report['reused']:,} of them reused. TTFT "
        f"{1000 * ours:.0f} ms instead of {1000 * plain:.0f} ms, {plain / ours:.1f}x.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print them."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--k", type=int, default=16, help="of a shape (default: 16)")
    made.add_argument("--context", type=int, default=4096, help="tokens in spans (default: 4096)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
