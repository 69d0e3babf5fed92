"""``refrag bench latency``: the paper's latency table against the plain decoder, on this machine.

All sides of a cell take turns in one process, through `Refrag.generate_batch`: spans in a prompt,
vectors from a store on disk. Beside them stand bare forward passes of the same decoder over as many
positions: what the arithmetic allows.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.latency_clock import TRIES, Runs, load_average
from refrag_rag.evaluation.latency_machine import machine
from refrag_rag.evaluation.latency_prompts import AROUND, PASSAGE, Passages, prompt_around
from refrag_rag.evaluation.latency_shapes import DECODERS, random_model
from refrag_rag.evaluation.latency_sides import Work, bare, cached, kv_bytes, not_cached, plain
from refrag_rag.evaluation.latency_tables import markdown
from refrag_rag.model import RefragModel
from refrag_rag.store import LMDBStore

LEAST_ROUNDS = 2
SHORT_SHARE = 0.1  # of the longest run
SHORT_RUNS = 5  # of sides that are so short, in one round: they cost little
WHOLE = 0  # stands for k where nothing is compressed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure.

    Attributes
    ----------
    model
        Name of a shape, or of a checkpoint (whose k is its own).
    contexts
        Tokens in spans.
    ks
        Tokens of a chunk, for shapes.
    batches
        Prompts read at once.
    tokens
        Tokens of each answer.
    rounds
        How often the sides take turns; fewer, but at least two, once `budget` is spent. Sides
        that take less than a tenth of the longest run five times from the second round on.
    budget
        Seconds for one context and batch size.
    tries
        Most runs for one figure, where neighbours disturb.
    encoder, device, dtype
        See `random_model`.
    """

    model: str = "smollm-135m"
    contexts: tuple[int, ...] = (1024, 2048, 4096, 8192)
    ks: tuple[int, ...] = (8, 16, 32)
    batches: tuple[int, ...] = (1,)
    tokens: int = 9
    rounds: int = 5
    budget: float = 180.0
    tries: int = TRIES
    encoder: str | None = None
    device: str = "cpu"
    dtype: str | None = None


def measure_latency(settings: Settings, target: Path) -> Iterator[str]:
    """Measure, write JSON to `target` after every cell, and yield lines for people.

    Raises
    ------
    InputError
        If there is no such shape, or a prompt cannot be made.
    """
    models = list(_models(settings))
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "machine": machine(models[0]),
        "around": AROUND,
        "passage": PASSAGE,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cells": [],
    }
    with TemporaryDirectory() as folder:
        for context in settings.contexts:
            for batch in settings.batches:
                found = _cells(settings, models, context, batch, Path(folder))
                report["cells"] += found
                _write(report, target)
                yield f"{context} tokens, batch {batch}: {len(found)} cells"
    yield markdown(report)


def _models(settings: Settings) -> Iterator[RefragModel]:
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    if settings.model not in DECODERS:
        yield RefragModel.from_pretrained(
            settings.model, device=settings.device, dtype=settings.dtype
        )
        return
    decoder = None
    for k in settings.ks:
        model = random_model(
            settings.model,
            k,
            encoder=settings.encoder,
            device=settings.device,
            dtype=dtype,
            decoder=decoder,
        )
        decoder = model.decoder
        yield model


def _cells(
    settings: Settings, models: Sequence[RefragModel], context: int, batch: int, folder: Path
) -> list[dict[str, Any]]:
    """Measure one context and batch size for every k; the plain decoder once for all of them."""
    maker = Passages(models[0], seed=context)
    rows = [maker.passages(context) for _ in range(batch)]
    with closing(LMDBStore(folder / f"{context}-{batch}")) as store:
        engines = [Refrag(model, store=store) for model in models]
        for engine in engines:
            engine.precompute(passage for row in rows for passage in row)
        prompts = [[prompt_around(engine, row) for row in rows] for engine in engines]
        counts = [
            engine.compress(asked[0], policy="none")
            for engine, asked in zip(engines, prompts, strict=True)
        ]
        full = counts[0].plain_positions
        works: dict[int, dict[str, Work]] = {
            WHOLE: {
                "plain": plain(engines[0], prompts[0], settings.tokens),
                "bare": bare(models[0], batch, full),
            }
        }
        for engine, asked, count in zip(engines, prompts, counts, strict=True):
            works[engine.model.config.k] = {
                "cached": cached(engine, asked, settings.tokens),
                "bare": bare(engine.model, batch, count.positions),
                "not cached": not_cached(engine.model, asked, settings.tokens),
            }
        runs = _take_turns(works, settings)
        memory = {
            engine.model.config.k: kv_bytes(engine, asked, "none")
            for engine, asked in zip(engines, prompts, strict=True)
        }
        memory[WHOLE] = kv_bytes(engines[0], prompts[0], "all")
    return [
        {
            "context": context,
            "batch": batch,
            "k": model.config.k,
            "positions": count.positions,
            "full_positions": full,
            "kv_bytes": {"plain": memory[WHOLE], "ours": memory[model.config.k]},
            "bare": runs[model.config.k]["bare"].report(),
            "bare_full": runs[WHOLE]["bare"].report(),
            "plain": runs[WHOLE]["plain"].report(),
            "cached": runs[model.config.k]["cached"].report(),
            "not_cached": runs[model.config.k]["not cached"].report(),
            "overhead": _overhead(runs[model.config.k], "cached"),
            "plain_overhead": _overhead(runs[WHOLE], "plain"),
            "load_average": load_average(),
        }
        for model, count in zip(models, counts, strict=True)
    ]


def _take_turns(
    works: Mapping[int, Mapping[str, Work]], settings: Settings
) -> dict[int, dict[str, Runs]]:
    """Round by round, one run of every side after the other; those of one k right after another."""
    on_cpu = torch.device(settings.device).type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 0
    runs = {
        k: {name: Runs(threads, settings.tries) for name in sides} for k, sides in works.items()
    }
    started = time.perf_counter()
    for k, sides in works.items():  # warm up; the long sides are warm through the short ones
        for work in sides.values() if k != WHOLE else ():
            work()
    for done in range(settings.rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > settings.budget:
            break
        longest = max([_last(one) for one in runs.values()])
        for k, sides in works.items():
            short = done and _last(runs[k]) < SHORT_SHARE * longest
            for _ in range(SHORT_RUNS if short else 1):
                for name, work in sides.items():
                    runs[k][name].measure(work)
    return runs


def _last(runs: Mapping[str, Runs]) -> float:
    """Seconds of the longest of the newest runs; 0 before the first."""
    return max([run.seconds for one in runs.values() for run in one.kept[-1:]], default=0.0)


def _overhead(runs: Mapping[str, Runs], side: str) -> dict[str, float]:
    """A side's time to the first token over a bare forward pass right behind it."""
    return runs[side].beside("ttft", runs["bare"], "seconds")


def _write(report: Mapping[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
