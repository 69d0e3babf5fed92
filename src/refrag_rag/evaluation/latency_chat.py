"""``refrag bench chat``: the second turn of a chat, with and without the first turn's KV cache."""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.latency_clock import Runs
from refrag_rag.evaluation.latency_machine import machine
from refrag_rag.evaluation.latency_prompts import Passages, prompt_around
from refrag_rag.evaluation.latency_shapes import random_model
from refrag_rag.store import LMDBStore

NEXT = "\nAnd what is said of the second one, and where does it stand?\n"


def measure_chat(
    name: str,
    target: Path,
    *,
    k: int = 16,
    context: int = 4096,
    rounds: int = 5,
    device: str = "cpu",
) -> Iterator[str]:
    """Time second turns in turns, write JSON to `target`, and yield lines for people."""
    model = random_model(name, k, device=device)
    on_cpu = torch.device(device).type == "cpu"
    runs = {side: Runs(torch.get_num_threads() if on_cpu else 0) for side in ("with", "without")}
    with TemporaryDirectory() as folder, closing(LMDBStore(Path(folder) / "store")) as store:
        engines = {
            side: Refrag(model, store=store, policy="none", prompt_cache=int(side == "with"))
            for side in runs
        }
        texts = Passages(model).passages(context)
        engines["with"].precompute(texts)
        first = prompt_around(engines["with"], texts)
        counts: dict[str, Any] = {}

        def turns(side: str) -> dict[str, float]:
            engine = engines[side]
            engine.prompt_cache.clear()
            said = engine.generate(first, max_new_tokens=8).text
            answer = engine.generate(first + said + NEXT, max_new_tokens=1)
            counts[side] = answer.counts
            return {"ttft": answer.timings.ttft_s, "token": float(answer.token_ids[0])}

        for _ in range(rounds):
            for side, found in runs.items():
                found.measure(partial(turns, side))
    tokens = {run.values["token"] for found in runs.values() for run in found.kept}
    report: dict[str, Any] = {
        "model": name, "k": k, "context": context, "machine": machine(model),
        "positions": counts["with"].positions, "reused": counts["with"].reused_positions,
        "same_token": len(tokens) == 1,
        **{side: found.report() for side, found in runs.items()},
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    yield chat_table(report)


def chat_table(report: dict[str, Any]) -> str:
    """Positions that were computed, and the ratio of the times to the first token."""
    ours, plain = (report[side]["ttft"]["median"] for side in ("with", "without"))
    return (
        f"Second turn over {report['context']:,} context tokens, k = {report['k']}: "
        f"{report['positions']:,} positions, {report['reused']:,} of them reused. TTFT "
        f"{1000 * ours:.0f} ms instead of {1000 * plain:.0f} ms, {plain / ours:.1f}x.\n"
    )
