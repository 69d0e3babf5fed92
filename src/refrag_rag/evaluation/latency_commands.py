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
    latency.add_argument(
        "--tries", type=int, default=4,
        help="most runs for one figure, where neighbours disturb (default: 4)",
    )  # fmt: skip
    latency.set_defaults(run=_latency)

    frameworks = kinds.add_parser(
        "frameworks", help="LlamaIndex and LangChain chains end to end, and where the time goes"
    )
    frameworks.add_argument("--model", default="smollm-135m", help="a shape")
    frameworks.add_argument("--k", type=int, default=16, help="tokens of a chunk (default: 16)")
    frameworks.add_argument("--passages", type=int, default=80, help="of 256 tokens (default: 80)")
    frameworks.add_argument("--tokens", type=int, default=1, help="of each answer (default: 1)")
    frameworks.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    frameworks.add_argument(
        "--plain-rounds", type=int, default=1, help="of the chains without us (default: 1)"
    )
    frameworks.add_argument("--device", default="cpu", help="(default: cpu)")
    frameworks.add_argument("--json", type=Path, required=True, help="where to write the figures")
    frameworks.set_defaults(run=_frameworks)

    chat = kinds.add_parser("chat", help="the second turn of a chat, with and without prompt_cache")
    chat.add_argument("--model", default="smollm-135m", help="a shape")
    chat.add_argument("--k", type=int, default=16, help="tokens of a chunk (default: 16)")
    chat.add_argument("--context", type=int, default=4096, help="tokens in spans (default: 4096)")
    chat.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    chat.add_argument("--device", default="cpu", help="(default: cpu)")
    chat.add_argument("--json", type=Path, required=True, help="where to write the figures")
    chat.set_defaults(run=_chat)

    precompute = kinds.add_parser(
        "precompute", help="encoding passages, against a bare loop of the encoder"
    )
    precompute.add_argument("--model", default="smollm-135m", help="a shape, or a checkpoint")
    precompute.add_argument("--passages", type=int, default=512, help="(default: 512)")
    precompute.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    precompute.add_argument("--batch-size", type=int, default=64, help="windows (default: 64)")
    precompute.add_argument("--device", default="cpu", help="(default: cpu)")
    precompute.add_argument("--json", type=Path, required=True, help="where to write the figures")
    precompute.set_defaults(run=_precompute)
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
        tries=options.tries,
        encoder=options.encoder,
        device=options.device,
        dtype=options.dtype,
    )
    for line in measure_latency(settings, options.json):
        print(line, flush=True)
    plot(json.loads(options.json.read_text(encoding="utf-8")), options.json.with_suffix(".png"))


def _frameworks(options: argparse.Namespace) -> None:
    # The chains are built with frameworks, which the library below imports nowhere.
    from importlib import import_module

    measure = import_module("refrag_rag.demo.latency").measure_frameworks
    for line in measure(
        options.model,
        options.json,
        k=options.k,
        passages=options.passages,
        tokens=options.tokens,
        rounds=options.rounds,
        plain_rounds=options.plain_rounds,
        device=options.device,
    ):
        print(line, flush=True)


def _precompute(options: argparse.Namespace) -> None:
    from refrag_rag.evaluation.latency_precompute import measure_precompute

    for line in measure_precompute(
        options.model,
        options.json,
        passages=options.passages,
        rounds=options.rounds,
        batch_size=options.batch_size,
        device=options.device,
    ):
        print(line, flush=True)


def _chat(options: argparse.Namespace) -> None:
    from refrag_rag.evaluation.latency_chat import measure_chat

    for line in measure_chat(
        options.model,
        options.json,
        k=options.k,
        context=options.context,
        rounds=options.rounds,
        device=options.device,
    ):
        print(line, flush=True)
