"""The store on disk as it grows, and what each format of chunk embeddings takes and costs.

Formats need questions: ``--data FILE`` as for ``refrag eval``, and a model that answers them.
"""

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.formats import formats_table, measure_formats
from benchmarks.harness import columns, parser, run, settings, summary
from refrag_rag.errors import InputError
from refrag_rag.evaluation.questions import read_questions
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.model import RefragModel
from refrag_rag.store import LMDBStore, PassageEntry
from refrag_rag.store.upkeep import stat

NAMESPACE = "n" * 32
TOKENS, K, WIDTH = 256, 16, 768  # of every passage; 26 KB each in fp16
AT_ONCE = 500  # passages of one write
READ = 100  # passages of one read
LARGEST_COMPACTION = 100_000  # passages; more are too large for the page cache
# Columns that no row has are left out: the published figures have four that are measured no more.
GROWTH = {
    "passages": "{passages:,}",
    "written a second": "{write_speed:.0f}",
    "100 read, ms (worst)": "{read_ms:.2f} ({worst_ms:.2f})",
    "their records by `get`, ms (ours / it)": "{own_ms:.2f} ({own_times:.1f}x)",
    "whole values by `get`, ms (ours / it)": "{plain_ms:.2f} ({plain_times:.1f}x)",
    "cold, ms": "{cold_ms:.1f}",
    "cold with read-ahead, ms": "{cold_ahead_ms:.1f}",
    "keys, s": "{keys_s:.2f}",
    "verify, s": "{verify_s:.1f}",
    "bytes per token": "{file_bytes:.1f}",
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for; the report is written after every row.

    Raises
    ------
    InputError
        If the folder is not empty.
    """
    place: Path | None = options.folder
    if place is not None and place.exists() and any(place.iterdir()):
        raise InputError(f"{place} is not empty; expected a new or an empty folder.")
    report: dict[str, Any] = {**settings(options), **machine(), "formats": [], "growth": []}
    if options.data:
        model = RefragModel.from_pretrained(options.model, device=options.device)
        report["fingerprint"] = model.fingerprint
        for row in measure_formats(model, read_questions(options.data, limit=options.limit)):
            report["formats"].append(row)
            write_json(report, options.json)
    with TemporaryDirectory() as temporary:
        folder = place or Path(temporary) / "store"
        for row in measure_growth(folder, options.passages, options.rounds):
            report["growth"].append(row)
            write_json(report, options.json)
        if 0 < options.passages <= LARGEST_COMPACTION:
            report["compaction"] = measure_compaction(folder)
    write_json(report, options.json)
    return report


def measure_growth(folder: Path, passages: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Fill a store, and measure it at every power of ten from 1,000 and at the end.

    Reads are of random passages into one array, each read once before it is timed; ``cold`` is one
    after the kernel was asked to forget the file.
    """
    samples, written = [_sample(seed) for seed in range(8)], 0
    for count in [n for n in (10**power for power in range(3, 12)) if n < passages] + [passages]:
        started = time.perf_counter()
        with LMDBStore(folder) as store:
            for numbers in _parts(range(written, count)):
                store.put(NAMESPACE, {_key(n): samples[n % len(samples)] for n in numbers})
        speed = (count - written) / (time.perf_counter() - started)
        if count:
            yield {"passages": count, "write_speed": speed, **_reads(folder, count, rounds)}
        written = count


def measure_compaction(folder: Path) -> dict[str, float]:
    """Delete every tenth passage and compact; seconds for both, and bytes given back."""
    with LMDBStore(folder) as store:
        gone = list(store.keys(NAMESPACE))[::10]
        delete = _timed(lambda: [store.delete(NAMESPACE, part) for part in _parts(gone)])
        before = stat(store).file
        compact = _timed(store.compact)
        return {
            "deleted": len(gone),
            "delete_s": delete,
            "compact_s": compact,
            "bytes_given_back": before - stat(store).file,
        }


def _reads(folder: Path, count: int, rounds: int) -> dict[str, float]:
    rng = Random(count)
    picks = [[_key(rng.randrange(count)) for _ in range(READ)] for _ in range(rounds + 1)]
    with LMDBStore(folder) as store:
        for keys in picks:
            _read(store, keys)
        left = iter(picks)  # the clock warms up once
        warm = summary(run({"read": lambda: _read(store, next(left))}, rounds), "read")["seconds"]
        file_bytes = stat(store).bytes_per_token
    file = os.open(folder / "data.mdb", os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    with LMDBStore(folder) as store:
        cold = _timed(lambda: _read(store, picks[0]))
    return {
        "read_ms": 1000 * warm["median"],
        "worst_ms": 1000 * warm["high"],
        "cold_ms": 1000 * cold,
        "file_bytes": file_bytes,
    }


def _read(store: LMDBStore, keys: Sequence[str]) -> dict[str, float]:
    """The engine's read."""
    return {"found": sum(entry is not None for entry in store.get(NAMESPACE, keys))}


def _sample(seed: int) -> PassageEntry:
    rng = np.random.default_rng(seed)
    lengths = np.full(TOKENS // K, K, np.int32)
    return PassageEntry(
        embeddings=rng.normal(size=(len(lengths), WIDTH)).astype(np.float16),
        token_ids=rng.integers(0, 49152, TOKENS).astype(np.int32),
        chunk_lengths=lengths,
        char_ends=(np.cumsum(lengths) * 4).astype(np.int32),
    )


def _key(number: int) -> str:
    return hashlib.sha256(number.to_bytes(8, "little")).hexdigest()


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of what was measured."""
    parts = [formats_table(report["formats"])] if report["formats"] else []
    parts += [columns(report["growth"], GROWTH)] if report["growth"] else []
    parts += [compaction(report["compaction"])] if "compaction" in report else []
    return "\n".join(parts)


def compaction(done: Mapping[str, float]) -> str:
    """Deleting and compacting, in one sentence."""
    return (
        f"Deleting {done['deleted']:,} of them took {done['delete_s']:.1f} s, compacting "
        f"{done['compact_s']:.0f} s; {done['bytes_given_back'] / 1e9:.1f} GB were given back.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print the tables."""
    made = parser(__doc__, rounds=100)
    made.set_defaults(model="smol")
    made.add_argument("--passages", type=int, default=10_000, help="in the end; 0 leaves that out")
    made.add_argument("--folder", type=Path, help="where the store grows; it is left there")
    made.add_argument("--data", type=Path, help="questions: measures the formats too")
    made.add_argument("--limit", type=int, help="of the questions")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
