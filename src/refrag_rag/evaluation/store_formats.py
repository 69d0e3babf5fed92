"""``refrag bench store``: what each format of chunk embeddings takes, and costs in answers."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.quality import Arm, measure, scores
from refrag_rag.evaluation.questions import Question
from refrag_rag.model import RefragModel
from refrag_rag.spans import neutralise
from refrag_rag.store import LMDBStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.store.formats import FORMATS, Vectors
from refrag_rag.store.formats.sq8 import SQ8
from refrag_rag.store.upkeep import stat

ARMS = (Arm("all chunks compressed", "none"), Arm("lexical, 20% as text", "lexical", 0.2))
ROUNDS = 5


class Codec(Protocol):
    """What a format of the store and a codec of its own have in common."""

    name: str

    def encode(self, vectors: Vectors) -> bytes:
        """Bytes of vectors."""

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Read them."""


@dataclass(frozen=True)
class FormatRow:
    """One format.

    Attributes
    ----------
    vector_bytes
        Of the chunk embeddings, per token of text.
    file_bytes
        Of the store's file in use, per token of text; None for a codec that the store has not.
    encode_speed, decode_speed
        Million numbers a second, one passage at a time, median of several rounds.
    error
        Squared error over squared norm, all vectors together.
    answers
        Scores by arm, as `refrag_rag.evaluation.quality.Score`.
    """

    format: str
    vector_bytes: float
    file_bytes: float | None
    encode_speed: float
    decode_speed: float
    error: float
    answers: list[dict[str, Any]]


def measure_formats(model: RefragModel, questions: Sequence[Question]) -> Iterator[FormatRow]:
    """Measure every format of the store, and SQ8, on the passages of questions.

    SQ8 is trained on every second passage.

    Parameters
    ----------
    questions
        With their retrieved passages; every passage is encoded once, in float32.
    """
    engine = Refrag(model, policy="none", vectors="float32")
    texts = sorted({neutralise(text) for one in questions for text in one.passages})
    engine.precompute(texts, progress=True)
    keys = [passage_key(text) for text in texts]
    found = zip(keys, engine.store.get(engine.namespace, keys), strict=True)
    entries = {key: entry for key, entry in found if entry is not None}
    train = np.concatenate([entry.embeddings for entry in list(entries.values())[::2]])
    codecs: list[Codec] = [*FORMATS.values(), SQ8.train(train)]
    for codec in codecs:
        yield _row(codec, entries, model, engine.namespace, questions)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats as a Markdown table."""
    arms = [answer["arm"] for answer in rows[0]["answers"]] if rows else []
    names = [
        "format", "vector bytes per token", "file bytes per token", "encode", "decode",
        "relative squared error", *(f"exact match, {arm}" for arm in arms),
    ]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        file = "" if row["file_bytes"] is None else f"{row['file_bytes']:.1f}"
        answers = [f"{a['exact']:.1%} ({a['low']:.1%} - {a['high']:.1%})" for a in row["answers"]]
        cells = [
            f"`{row['format']}`", f"{row['vector_bytes']:.1f}", file,
            f"{row['encode_speed']:.0f} M/s", f"{row['decode_speed']:.0f} M/s",
            f"{row['error']:.1e}", *answers,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _row(
    codec: Codec,
    entries: Mapping[str, PassageEntry],
    model: RefragModel,
    namespace: str,
    questions: Sequence[Question],
) -> FormatRow:
    data = {key: codec.encode(entry.embeddings) for key, entry in entries.items()}
    read = {key: _decoded(codec, data[key], entry) for key, entry in entries.items()}
    lost = sum(float(((read[k].embeddings - e.embeddings) ** 2).sum()) for k, e in entries.items())
    whole = sum(
        float((entry.embeddings.astype(np.float64) ** 2).sum()) for entry in entries.values()
    )
    tokens = max(1, sum(len(entry.token_ids) for entry in entries.values()))
    numbers = sum(entry.embeddings.size for entry in entries.values())
    store = MemoryStore()
    store.put(namespace, read)
    reader = Refrag(model, store=store, policy="none")

    def encode() -> None:
        for entry in entries.values():
            codec.encode(entry.embeddings)

    def decode() -> None:
        for key in data:
            codec.decode(data[key], read[key].embeddings)

    return FormatRow(
        format=codec.name,
        vector_bytes=sum(map(len, data.values())) / tokens,
        file_bytes=_file_bytes(codec.name, entries) if codec.name in FORMATS else None,
        encode_speed=numbers / 1e6 / _seconds(encode),
        decode_speed=numbers / 1e6 / _seconds(decode),
        error=lost / whole if whole else 0.0,
        answers=[asdict(one) for one in scores(questions, measure(reader, questions, ARMS))],
    )


def _decoded(codec: Codec, data: bytes, entry: PassageEntry) -> PassageEntry:
    out = np.empty(entry.embeddings.shape, np.float32)
    codec.decode(data, out)
    return replace(entry, embeddings=out)


def _file_bytes(name: str, entries: Mapping[str, PassageEntry]) -> float:
    with tempfile.TemporaryDirectory() as folder, LMDBStore(folder, format=name) as store:
        store.put("n" * 32, entries)
        return stat(store).bytes_per_token


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return max(statistics.median(taken), 1e-9)
