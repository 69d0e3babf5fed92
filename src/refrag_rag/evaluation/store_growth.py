"""``refrag bench store --passages N``: the store on disk as it grows, with synthetic vectors."""

import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import numpy as np

from refrag_rag.store import LMDBStore, PassageEntry
from refrag_rag.store.upkeep import stat, verify

NAMESPACE = "n" * 32
AT_ONCE = 500
READ = 100
ROUNDS = 100
LARGEST_WALK = 100_000  # passages; what goes by key through a larger file measures the disk
Get = Callable[[Sequence[str]], list[bytes | None]]


@dataclass(frozen=True)
class Shape:
    """What every passage is like: tokens, tokens a chunk, numbers a vector."""

    tokens: int = 256
    k: int = 16
    width: int = 768


@dataclass(frozen=True)
class GrowthRow:
    """The store with some number of passages.

    Attributes
    ----------
    write_speed
        Passages a second since the row before, on disk when counted.
    read_ms, worst_ms
        Milliseconds for 100 random passages into one array; median and largest of several reads,
        each read once before.
    own_ms
        LMDB's own `get` of the same records of the same file, copied.
    own_times
        How many times as long ours takes; median over pairs read right after one another, since a
        neighbour on the other half of a core comes and goes within a row.
    plain_ms, plain_times
        The same of as many whole values, one for each passage, in a database of their own (None
        above `LARGEST_WALK`).
    cold_ms, cold_ahead_ms
        The same after the file left the page cache, the kernel's read-ahead off and on.
    keys_s, verify_s
        Seconds to list all keys, and to read and check all entries (None above `LARGEST_WALK`).
    file_bytes
        Of the file, per token of text.
    """

    passages: int
    write_speed: float
    read_ms: float
    worst_ms: float
    own_ms: float
    own_times: float
    plain_ms: float | None
    plain_times: float | None
    cold_ms: float
    cold_ahead_ms: float
    keys_s: float
    verify_s: float | None
    file_bytes: float


def measure_growth(
    folder: Path, passages: int, *, shape: Shape | None = None, vectors: str = "fp16"
) -> Iterator[GrowthRow]:
    """Fill a store and measure it at every power of ten from 1,000, and at the end.

    Parameters
    ----------
    folder
        An empty folder with room for all of it.
    passages
        How many in the end.
    vectors
        Format of the chunk embeddings.
    """
    shape = shape or Shape()
    made = _samples(shape)
    written = 0
    for count in _steps(passages):
        started = time.perf_counter()
        with LMDBStore(folder, format=vectors) as store:
            for start in range(written, count, AT_ONCE):
                numbers = range(start, min(start + AT_ONCE, count))
                store.put(NAMESPACE, {_key(n): made[n % len(made)] for n in numbers})
        taken = time.perf_counter() - started
        yield _row(folder, count, (count - written) / taken, made, vectors)
        written = count


def measure_compaction(folder: Path) -> dict[str, float]:
    """Delete every tenth passage and compact; seconds for both, and bytes given back.

    For a moment the folder holds the store twice.
    """
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


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Growth as a Markdown table."""
    lines = [
        "| passages | written a second | 100 read, ms (worst) "
        "| their records by `get`, ms (ours / it) | whole values by `get`, ms (ours / it) "
        "| cold, ms | cold with read-ahead, ms | keys, s | verify, s | bytes per token |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        verify_s = "-" if row["verify_s"] is None else f"{row['verify_s']:.1f}"
        lines.append(
            f"| {row['passages']:,} | {row['write_speed']:.0f} "
            f"| {row['read_ms']:.2f} ({row['worst_ms']:.2f}) | {_beside(row, 'own')} "
            f"| {_beside(row, 'plain')} | {row['cold_ms']:.1f} | {row['cold_ahead_ms']:.1f} "
            f"| {row['keys_s']:.2f} | {verify_s} | {row['file_bytes']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _beside(row: Mapping[str, Any], name: str) -> str:
    if row[f"{name}_ms"] is None:
        return "-"
    return f"{row[f'{name}_ms']:.2f} ({row[f'{name}_times']:.1f}x)"


def _row(
    folder: Path, count: int, speed: float, made: Sequence[PassageEntry], vectors: str
) -> GrowthRow:
    rng = Random(count)
    picks = [[_key(rng.randrange(count)) for _ in range(READ)] for _ in range(ROUNDS)]

    def read(store: LMDBStore, keys: Sequence[str]) -> object:
        return store.get(NAMESPACE, keys)

    warm, own, plain = [], [], []
    with LMDBStore(folder) as store:
        with _plain(folder, count, made[0].to_bytes(vectors)) as get:
            for keys in picks:  # in turns, so that a neighbour disturbs both
                warm.append(_warm(partial(read, store, keys)))
                own.append(_warm(partial(_own, store, _records(store, keys))))
                plain += [_warm(partial(get, keys))] if get else []
        keys_s = _timed(lambda: list(store.keys(NAMESPACE)))
        verify_s = _timed(lambda: verify(store)) if count <= LARGEST_WALK else None
        file_bytes = stat(store).bytes_per_token
    cold = [_cold(folder, ahead, picks[0], read) for ahead in (False, True)]
    return GrowthRow(
        passages=count,
        write_speed=speed,
        read_ms=1000 * statistics.median(warm),
        worst_ms=1000 * max(warm),
        own_ms=1000 * statistics.median(own),
        own_times=_times(warm, own),
        plain_ms=1000 * statistics.median(plain) if plain else None,
        plain_times=_times(warm, plain) if plain else None,
        cold_ms=1000 * cold[0],
        cold_ahead_ms=1000 * cold[1],
        keys_s=keys_s,
        verify_s=verify_s,
        file_bytes=file_bytes,
    )


def _records(store: LMDBStore, keys: Sequence[str]) -> list[bytes]:
    """Keys of all records of passages, in LMDB's spelling."""
    both = [f"{NAMESPACE}/{key}".encode() for key in keys]
    return store.scan(lambda transaction: [key for key in both if transaction.get(key) is not None])


def _own(store: LMDBStore, records: Sequence[bytes]) -> object:
    """LMDB's own `get` of these records, copied."""
    return store.scan(lambda transaction: [bytes(transaction.get(key)) for key in records])


@contextmanager
def _plain(folder: Path, count: int, value: bytes) -> Iterator[Get | None]:
    """LMDB's own `get` for as many bytes under the same keys, in a database beside the store."""
    if count > LARGEST_WALK:
        yield None
        return
    place = folder.with_name(folder.name + ".plain")
    place.mkdir()
    room = count * (len(value) + 8192) + (1 << 20)
    try:
        with lmdb.open(str(place), map_size=room, readahead=False, sync=False) as database:
            for start in range(0, count, AT_ONCE):
                with database.begin(write=True) as transaction:
                    for number in range(start, min(start + AT_ONCE, count)):
                        transaction.put(_key(number).encode(), value)

            def get(keys: Sequence[str]) -> list[bytes | None]:
                wanted = [key.encode() for key in keys]
                with database.begin() as transaction:
                    return [transaction.get(key) for key in wanted]

            yield get
    finally:
        shutil.rmtree(place)


def _cold(
    folder: Path,
    read_ahead: bool,
    keys: Sequence[str],
    read: Callable[[LMDBStore, Sequence[str]], object],
) -> float:
    """Seconds of one read after the kernel was asked to forget the file."""
    if hasattr(os, "posix_fadvise"):
        file = os.open(folder / "data.mdb", os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    with LMDBStore(folder, read_ahead=read_ahead) as store:
        return _timed(lambda: read(store, keys))


def _samples(shape: Shape) -> list[PassageEntry]:
    rng = np.random.default_rng(0)
    chunks = -(-shape.tokens // shape.k)
    lengths = np.full(chunks, shape.k, np.int32)
    lengths[-1] = shape.tokens - shape.k * (chunks - 1)
    return [
        PassageEntry(
            embeddings=rng.normal(size=(chunks, shape.width)).astype(np.float16),
            token_ids=rng.integers(0, 49152, shape.tokens).astype(np.int32),
            chunk_lengths=lengths,
            char_ends=(np.cumsum(lengths) * 4).astype(np.int32),
        )
        for _ in range(8)
    ]


def _steps(passages: int) -> list[int]:
    steps, count = [], 1000
    while count < passages:
        steps.append(count)
        count *= 10
    return [*steps, passages]


def _key(number: int) -> str:
    return hashlib.sha256(number.to_bytes(8, "little")).hexdigest()


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]


def _times(ours: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median([one / other for one, other in zip(ours, others, strict=True)])


def _warm(work: Callable[[], object]) -> float:
    work()
    return _timed(work)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
