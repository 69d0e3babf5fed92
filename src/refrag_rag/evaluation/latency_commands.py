"""The commands ``refrag bench ...``: parsers, and what they start."""

import argparse
from pathlib import Path
from typing import Any

from refrag_rag.evaluation.store_commands import add_store


def add_commands(commands: Any) -> None:
    """Add ``bench`` with its own commands to the parser of ``refrag``."""
    bench = commands.add_parser("bench", help="measure speed on this machine")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")
    latency = kinds.add_parser(
        "latency", help="time to the first token and per token against the plain decoder"
    )
    _model(latency)
    latency.add_argument(
        "--contexts", type=int, nargs="+", default=[1024, 2048, 4096, 8192], metavar="N",
        help="tokens in spans (default: 1024 2048 4096 8192)",
    )  # fmt: skip
    latency.add_argument(
        "--k", type=int, nargs="+", default=[8, 16, 32], help="of a shape (default: 8 16 32)"
    )
    latency.add_argument("--batches", type=int, nargs="+", default=[1], help="(default: 1)")
    latency.add_argument("--tokens", type=int, default=9, help="of each answer (default: 9)")
    latency.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    latency.add_argument(
        "--budget", type=float, default=180.0, metavar="SECONDS",
        help="for one context and batch size; then two rounds are enough (default: 180)",
    )  # fmt: skip
    latency.set_defaults(run=_latency)
    add_store(kinds)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="smollm-135m",
        help="a shape with random weights (smollm-135m, llama-1b, llama-7b), or a checkpoint",
    )  # fmt: skip
    parser.add_argument("--encoder", help="the encoder's shape, instead of the decoder's own")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ... (default: cpu)")
    parser.add_argument("--dtype", help="float32, bfloat16 ... (default: float32 on CPUs)")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")


def _latency(options: argparse.Namespace) -> None:
    import json

    from refrag_rag.evaluation.latency import Settings, measure_latency
    from refrag_rag.evaluation.latency_tables import plot

    settings = Settings(
        model=options.model,
        contexts=tuple(options.contexts),
        ks=tuple(options.k),
        batches=tuple(options.batches),
        tokens=options.tokens,
        rounds=options.rounds,
        budget=options.budget,
        encoder=options.encoder,
        device=options.device,
        dtype=options.dtype,
    )
    for line in measure_latency(settings, options.json):
        print(line, flush=True)
    plot(json.loads(options.json.read_text(encoding="utf-8")), options.json.with_suffix(".png"))
