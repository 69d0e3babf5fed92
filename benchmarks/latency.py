"""Time to the first token and per later token against the plain decoder, through the engine.

Spans in a prompt, vectors from a store on disk. Beside them stand bare forward passes of the same
decoder over as many positions: what the arithmetic allows.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import (
    System,
    median,
    new_store,
    parser,
    ratio,
    run,
    settings,
    summary,
    table,
)
from benchmarks.models import about, bare, load
from benchmarks.prompts import AROUND, PASSAGE, Passages, prompt_around
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.report import machine, where, write_json
from refrag_rag.generation.prompt_cache import cache_bytes
from refrag_rag.model import RefragModel
from refrag_rag.model.graphs import graphs_of
from refrag_rag.store import MemoryStore

FIRST = (
    "context", "k", "positions", "plain", "cached", "speed-up", "ceiling", "of the ceiling",
    "ours / bare", "not cached", "speed-up",
)  # fmt: skip
LATER = (
    "context", "k", "plain TTIT", "ours TTIT", "ratio", "plain tokens/s", "ours tokens/s",
    "not cached tokens/s", "KV cache plain", "KV cache ours",
)  # fmt: skip
PEAK = ("peak plain", "peak ours")  # where the device counts it
Cell = Mapping[str, Any]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every context, batch size and k; the report is written after each context."""
    models = list(_models(options))
    report: dict[str, Any] = {
        "settings": settings(options),
        **machine(),
        **about(models[0]),
        "around": AROUND,
        "passage": PASSAGE,
        "cells": [],
    }
    for context in options.contexts:
        for batch in options.batches:
            report["cells"] += _cells(options, models, context, batch)
            write_json(report, options.json)
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """Where it was measured, and two tables for every batch size."""
    parts = [_heading(report)]
    for batch in report["settings"]["batches"]:
        cells = [cell for cell in report["cells"] if cell["batch"] == batch]
        peak = PEAK if all("peak_bytes" in cell["plain"] for cell in cells) else ()
        parts += [
            f"**Time to the first token, batch {batch}**\n",
            table(FIRST, map(_first, cells)),
            f"**Later tokens and memory, batch {batch}**\n",
            table((*LATER, *peak), map(_later, cells)),
        ]
    return "\n".join(parts)


def speed_up(cell: Cell, system: str = "cached") -> float:
    """TTFT of the plain decoder over that of a system."""
    return median(cell, "plain", "ttft") / median(cell, system, "ttft")


def ceiling(cell: Cell) -> float:
    """The same for bare forward passes of as many positions."""
    return median(cell, "bare_full", "seconds") / median(cell, "bare", "seconds")


def of_ceiling(cell: Cell) -> float:
    """Speed-up over ceiling, each side held against the bare forward pass of its own round."""
    return median(cell, "plain_overhead") / median(cell, "overhead")


def kv_bytes(engine: Refrag, prompts: Sequence[str], policy: str) -> int:
    """Bytes of the KV cache behind the prefill, added up over its tensors."""
    found: list[int] = []

    def look(_module: Any, _arguments: Any, output: Any) -> None:
        found.append(cache_bytes(output.past_key_values))

    hook = engine.model.decoder.register_forward_hook(look)
    try:
        engine.generate_batch(prompts, max_new_tokens=1, policy=policy, batch_size=len(prompts))
    finally:
        hook.remove()
    return found[0]


def answer(
    engine: Refrag, prompts: Sequence[str], policy: str, tokens: int, *, misses: bool = False
) -> dict[str, float]:
    """Answer all prompts at once.

    Raises
    ------
    InputError
        If the store has passages that it should not have, or the other way round.
    """
    answers = engine.generate_batch(
        prompts, batch_size=len(prompts), policy=policy, max_new_tokens=tokens
    )
    counts, timings = answers[0].counts, answers[0].timings
    if bool(counts.cache_misses) is not misses:
        raise InputError(f"{counts}: the store is not in the state that is to be measured.")
    made = [len(one.token_ids) for one in answers]
    values = {"ttft": timings.ttft_s, "throughput": sum(made) / timings.total_s}
    return values | ({"ttit": timings.decode_s / (max(made) - 1)} if max(made) > 1 else {})


def not_cached(model: RefragModel, prompts: Sequence[str], tokens: int) -> dict[str, float]:
    """Answer with a store that is empty every time."""
    engine = Refrag(model, store=MemoryStore())
    return answer(engine, prompts, "none", tokens, misses=True)


def _models(options: argparse.Namespace) -> Iterator[RefragModel]:
    decoder = graphs = None
    for k in options.k:
        model = load(options.model, k, device=options.device, dtype=options.dtype, decoder=decoder)
        if options.graphs:
            graphs = graphs or graphs_of(model.decoder)
            model.graphs = graphs  # of the decoder, which all share
        decoder = model.decoder
        yield model


def _cells(
    options: argparse.Namespace, models: Sequence[RefragModel], context: int, batch: int
) -> list[dict[str, Any]]:
    """One context and batch size for every k; the plain decoder once for all of them."""
    passages = Passages(models[0], seed=context)
    rows = [passages.passages(context) for _ in range(batch)]
    with new_store() as store:
        cells: list[dict[str, Any]] = []
        systems: dict[str, System] = {}
        for model in models:
            engine, k = Refrag(model, store=store, policy="none"), model.config.k
            engine.precompute(passage for row in rows for passage in row)
            prompts = [prompt_around(engine, row) for row in rows]
            counts = engine.compress(prompts[0])
            ask = partial(answer, engine, prompts, tokens=options.tokens)
            if not systems:
                systems["plain"] = partial(ask, "all")
                systems["bare_full"] = bare(model, batch, counts.plain_positions)
                whole = kv_bytes(engine, prompts, "all")
            systems[f"cached {k}"] = partial(ask, "none")
            systems[f"bare {k}"] = bare(model, batch, counts.positions)
            systems[f"not_cached {k}"] = partial(not_cached, model, prompts, options.tokens)
            cells.append({
                "context": context, "batch": batch, "k": k,
                "positions": counts.positions, "full_positions": counts.plain_positions,
                "kv_bytes": {"plain": whole, "ours": kv_bytes(engine, prompts, "none")},
            })  # fmt: skip
        found = run(systems, options.rounds)
    return [cell | _summaries(found, cell["k"]) for cell in cells]


def _summaries(rows: Sequence[dict[str, Any]], k: int) -> dict[str, Any]:
    """What was measured of one k, and of the plain decoder beside it."""
    return {
        **{name: summary(rows, name) for name in ("plain", "bare_full")},
        **{name: summary(rows, f"{name} {k}") for name in ("cached", "bare", "not_cached")},
        "overhead": ratio(rows, (f"cached {k}", "ttft"), (f"bare {k}", "seconds")),
        "plain_overhead": ratio(rows, ("plain", "ttft"), ("bare_full", "seconds")),
    }


def _first(cell: Cell) -> list[str]:
    return [
        f"{cell['context']:,}",
        str(cell["k"]),
        f"{cell['positions']:,} / {cell['full_positions']:,}",
        _time(cell["plain"]["ttft"]),
        _time(cell["cached"]["ttft"]),
        f"{speed_up(cell):.1f}x",
        f"{ceiling(cell):.1f}x",
        f"{of_ceiling(cell):.0%}",
        f"{median(cell, 'overhead'):.2f}",
        _time(cell["not_cached"]["ttft"]),
        f"{speed_up(cell, 'not_cached'):.1f}x",
    ]


def _later(cell: Cell) -> list[str]:
    ttit = ["", "", ""]
    if "ttit" in cell["plain"]:
        gain = median(cell, "plain", "ttit") / median(cell, "cached", "ttit")
        ttit = [*(_time(cell[side]["ttit"]) for side in ("plain", "cached")), f"{gain:.2f}x"]
    peaks = [cell[side].get("peak_bytes") for side in ("plain", "cached")]
    return [
        f"{cell['context']:,}",
        str(cell["k"]),
        *ttit,
        *(f"{median(cell, side, 'throughput'):.2f}" for side in ("plain", "cached", "not_cached")),
        *(f"{cell['kv_bytes'][side] / 2**20:,.1f} MiB" for side in ("plain", "ours")),
        *(f"{peak / 2**20:,.0f} MiB" for peak in peaks if peak is not None),
    ]


def _time(found: Mapping[str, float]) -> str:
    scale, unit = (1000, "ms") if found["median"] < 1 else (1, "s")
    low, middle, high = (_short(found[place] * scale) for place in ("low", "median", "high"))
    return f"{middle} {unit} ({low} to {high})"


def _short(value: float) -> str:
    """Three digits, and whole numbers above."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _heading(report: Mapping[str, Any]) -> str:
    asked = report["settings"]
    return (
        f"`{asked['model']}`, {report['decoder_parameters'] / 1e6:.0f} million parameters, "
        f"encoder {report['encoder_parameters'] / 1e6:.0f} million; {report['dtype']}, "
        f"{report['attention']} attention. {report['around']} positions outside spans, passages "
        f"of {report['passage']} tokens, answers of {asked['tokens']} tokens"
        f"{', by CUDA graphs where they fit' * asked.get('graphs', False)}; medians, "
        f"lowest and highest. {where(report)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print the tables."""
    made = parser(__doc__, rounds=5)
    made.add_argument(
        "--contexts", type=int, nargs="+", default=[1024, 2048, 4096, 8192],
        help="tokens in spans (default: 1024 2048 4096 8192)",
    )  # fmt: skip
    made.add_argument("--k", type=int, nargs="+", default=[8, 16, 32], help="of a shape")
    made.add_argument("--batches", type=int, nargs="+", default=[1], help="prompts read at once")
    made.add_argument(
        "--graphs", action="store_true", help="run the engine's sides by CUDA graphs where they fit"
    )
    made.add_argument("--tokens", type=int, default=9, help="of each answer (default: 9)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
