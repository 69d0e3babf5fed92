"""``refrag bench precompute``: our indexing against a bare loop of the same encoder."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.latency_clock import Runs, load_average
from refrag_rag.evaluation.latency_machine import machine
from refrag_rag.evaluation.latency_prompts import Passages
from refrag_rag.evaluation.latency_shapes import DECODERS, random_model
from refrag_rag.evaluation.latency_sides import Work
from refrag_rag.model import RefragModel
from refrag_rag.store import LMDBStore


def measure_precompute(
    name: str,
    target: Path,
    *,
    passages: int = 512,
    lengths: tuple[int, int] = (64, 256),
    rounds: int = 3,
    batch_size: int = 64,
    device: str = "cpu",
) -> Iterator[str]:
    """Time both sides in turns, write JSON to `target`, and yield lines for people.

    The bare loop gets its batches sorted, cut and padded beforehand; ours begins with texts and
    ends with entries in a store on disk.

    Parameters
    ----------
    passages, lengths
        How many, of how many tokens (lowest and highest; evenly between).
    """
    shape = name in DECODERS
    model = (
        random_model(name, 16, device=device)
        if shape
        else RefragModel.from_pretrained(name, device=device)
    )
    maker, rng = Passages(model), Random(0)
    texts = [maker.passage(rng.randint(*lengths)) for _ in range(passages)]
    on_cpu = torch.device(device).type == "cpu"
    runs = {side: Runs(torch.get_num_threads() if on_cpu else 0) for side in ("ours", "bare")}
    with TemporaryDirectory() as folder:
        folders = (Path(folder) / str(number) for number in range(10**6))
        works: dict[str, Work] = {
            "ours": lambda: _ours(model, texts, next(folders), batch_size),
            "bare": _bare(model, texts, batch_size),
        }
        for _ in range(rounds):
            for side, work in works.items():
                runs[side].measure(work)
    report: dict[str, Any] = {
        "model": name,
        "machine": machine(model),
        "passages": passages,
        "lengths": lengths,
        "batch_size": batch_size,
        "load_average": load_average(),
        **{side: found.report() for side, found in runs.items()},
    }
    ours, bare = (report[side]["seconds"]["median"] for side in ("ours", "bare"))
    report["share_of_bare"] = bare / ours
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    yield precompute_table(report)


def precompute_table(report: dict[str, Any]) -> str:
    """One sentence and a table."""
    low, high = report["lengths"]
    lines = [
        f"{report['passages']} passages of {low} to {high} tokens, batches of "
        f"{report['batch_size']} windows.\n",
        "| side | seconds (median, lowest to highest) | passages/s |",
        "|---|---|---|",
    ]
    for side, label in (("ours", "text to store"), ("bare", "bare loop of the encoder")):
        found = report[side]["seconds"]
        rate = report["passages"] / found["median"]
        spread = f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        lines.append(f"| {label} | {spread} | {rate:.1f} |")
    return "\n".join([*lines, f"\nOurs reaches {report['share_of_bare']:.0%} of the bare loop.\n"])


def _ours(model: RefragModel, texts: list[str], folder: Path, batch_size: int) -> dict[str, float]:
    with closing(LMDBStore(folder)) as store:
        engine = Refrag(model, store=store, policy="none")
        report = engine.precompute(texts, batch_size=batch_size)
    return {"encoded": float(report.encoded)}


def _bare(model: RefragModel, texts: list[str], batch_size: int) -> Work:
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
    def work() -> dict[str, float]:
        for ids, mask in batches:
            encoder.model(input_ids=ids, attention_mask=mask)
        return {}

    return work
