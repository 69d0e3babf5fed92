"""Requests at the same time: decoded by vLLM's server, and by the model itself."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness import columns, new_store, parser, run, settings, summary
from benchmarks.models import about
from benchmarks.prompts import Passages
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.generation.answer import Answer
from refrag_rag.spans import wrap

BEGINNING = "Once upon a time"  # text to go on with: answers to questions are short
COLUMNS = {
    "requests at once": "{at_once}",
    "decoded by": "{system}",
    "answers/s": "{answers[median]:.2f}",
    "tokens/s": "{tokens[median]:.1f}",
    "TTFT, ms": "{ttft_ms[median]:,.0f}",
    "its lowest and highest": "{ttft_ms[low]:,.0f} to {ttft_ms[high]:,.0f}",
}
Ask = Callable[[Sequence[Any]], list[Answer]]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Answer as many prompts as there are requests at once, by each system in turn."""
    placed = {"device": options.device, "dtype": options.dtype, "policy": "none"}
    with new_store() as store:
        own = Refrag.load(options.model, store=store, **placed)
        served = Refrag.load(options.model, store=store, backend=options.backend, **placed)
        passages = Passages(own.model)
        rows = []
        for at_once in options.at_once:
            prompts = []
            for _ in range(at_once):
                texts = passages.passages(options.context)
                own.precompute(texts)
                prompts.append("\n".join([*map(wrap, texts), BEGINNING]))
            systems = {
                "vLLM": partial(_each, served, options.tokens),
                "the model, a thread each": partial(_each, own, options.tokens),
                "the model, one batch": partial(_together, own, options.tokens),
            }
            timed = run(
                {name: partial(_timed, ask, prompts) for name, ask in systems.items()},
                options.rounds,
            )
            rows += [
                {"at_once": at_once, "system": name, **summary(timed, name)} for name in systems
            ]
    report = {**settings(options), **machine(), **about(own.model), "rows": rows}
    write_json(report, options.json)
    return report


def _each(engine: Refrag, tokens: int, prompts: Sequence[Any]) -> list[Answer]:
    """As callers who know nothing of each other."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(partial(engine.generate, max_new_tokens=tokens), prompts))


def _together(engine: Refrag, tokens: int, prompts: Sequence[Any]) -> list[Answer]:
    return engine.generate_batch(prompts, batch_size=len(prompts), max_new_tokens=tokens)


def _timed(ask: Ask, prompts: Sequence[Any]) -> dict[str, float]:
    started = time.perf_counter()
    answers = ask(prompts)
    seconds = time.perf_counter() - started
    new = sum(one.counts.new_tokens for one in answers)
    return {
        "answers": len(answers) / seconds,
        "tokens": new / seconds,
        "new_tokens": new / len(answers),
        "positions": answers[0].counts.positions,
        "ttft_ms": 1000 * median(one.timings.ttft_s for one in answers),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """A row for each system and number of requests at once."""
    first = report["rows"][0]
    return (
        f"`{report['model']}`, {report['dtype']}, {report['context']:,} tokens in spans, "
        f"{first['positions']['median']:.0f} positions a prompt, answers of "
        f"{first['new_tokens']['median']:.0f} tokens; medians of {first['runs']} runs.\n\n"
        + columns(report["rows"], COLUMNS)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print them."""
    made = parser(__doc__, rounds=3)
    made.set_defaults(model="smol")
    made.add_argument("--backend", nargs="+", required=True, help="base URLs of vLLM servers")
    made.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32], help="requests")
    made.add_argument("--context", type=int, default=1024, help="tokens in spans (default: 1024)")
    made.add_argument("--tokens", type=int, default=32, help="longest answer (default: 32)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
