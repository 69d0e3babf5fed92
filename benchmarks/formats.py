"""What each format of chunk embeddings takes, and costs in answers; `benchmarks.store` runs it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import columns, median, run, summary
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.arms import ANSWER_TOKENS
from refrag_rag.evaluation.metrics import exact_match, wilson
from refrag_rag.evaluation.prompts import prompt
from refrag_rag.evaluation.questions import Question
from refrag_rag.model import RefragModel
from refrag_rag.spans import neutralise
from refrag_rag.store import ChunkStore, LMDBStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.store.formats import FORMATS
from refrag_rag.store.upkeep import stat

ARMS = {"all chunks compressed": ("none", 0.0), "lexical, 20% as text": ("lexical", 0.2)}
ROUNDS = 5
FORMATS_TABLE = {
    "format": "`{format}`",
    "vector bytes per token": "{vector_bytes:.1f}",
    "file bytes per token": "{file_bytes:.1f}",
    "encode": "{encode_speed:.0f} M/s",
    "decode": "{decode_speed:.0f} M/s",
    "relative squared error": "{error:.1e}",
}
Entries = Mapping[str, PassageEntry]


def measure_formats(model: RefragModel, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Measure every format on the chunk embeddings of the questions' passages."""
    engine = Refrag(model, policy="none", vectors="float32")
    texts = sorted({neutralise(text) for one in questions for text in one.passages})
    engine.precompute(texts, progress=True)
    keys = [passage_key(text) for text in texts]
    found = zip(keys, engine.store.get(engine.namespace, keys), strict=True)
    entries = {key: entry for key, entry in found if entry is not None}
    for form in FORMATS:
        read, row = measure_format(form, entries)
        store = MemoryStore()
        store.put(engine.namespace, read)
        yield row | {"answers": list(_answers(model, store, questions))}


def measure_format(name: str, entries: Entries) -> tuple[Entries, dict[str, Any]]:
    """Bytes, speeds and error of one format; and the entries as they are read from it.

    Parameters
    ----------
    entries
        Those of some passages, in float32.
    """
    form = FORMATS[name]
    data = {key: form.encode(entry.embeddings) for key, entry in entries.items()}
    out = {key: np.empty(entry.embeddings.shape, np.float32) for key, entry in entries.items()}

    def encode() -> dict[str, float]:
        return {"bytes": sum(len(form.encode(entry.embeddings)) for entry in entries.values())}

    def decode() -> dict[str, float]:
        for key in entries:
            form.decode(data[key], out[key])
        return {}

    systems = {"encode": encode, "decode": decode}
    rows = run(systems, ROUNDS)
    whole = sum(float((e.embeddings.astype(np.float64) ** 2).sum()) for e in entries.values())
    lost = sum(float(((out[key] - e.embeddings) ** 2).sum()) for key, e in entries.items())
    tokens = max(1, sum(len(entry.token_ids) for entry in entries.values()))
    numbers = sum(entry.embeddings.size for entry in entries.values()) / 1e6
    with TemporaryDirectory() as folder, LMDBStore(folder, format=name) as store:
        store.put("n" * 32, entries)
        file_bytes = stat(store).bytes_per_token
    speeds = {f"{one}_speed": numbers / median(summary(rows, one), "seconds") for one in systems}
    return {key: replace(entry, embeddings=out[key]) for key, entry in entries.items()}, {
        "format": name,
        "vector_bytes": sum(map(len, data.values())) / tokens,
        "file_bytes": file_bytes,
        **speeds,
        "error": lost / whole if whole else 0.0,
    }


def _answers(
    model: RefragModel, store: ChunkStore, questions: Sequence[Question]
) -> Iterator[dict[str, Any]]:
    """Exact match with its 95% interval, by arm."""
    engine = Refrag(model, store=store)
    for arm, (policy, p) in ARMS.items():
        answers = engine.generate_batch(
            [prompt(one) for one in questions], policy=policy, p=p, max_new_tokens=ANSWER_TOKENS
        )
        pairs = zip(questions, answers, strict=True)
        right = sum(exact_match(answer.text, one.answers) for one, answer in pairs)
        low, high = wilson(right, len(questions))
        exact = right / len(questions)
        yield {"arm": arm, "questions": len(questions), "exact": exact, "low": low, "high": high}


def formats_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats as a Markdown table."""
    arms = {
        f"exact match, {answer['arm']}": f"{{answers[{place}][exact]:.1%}} "
        f"({{answers[{place}][low]:.1%}} - {{answers[{place}][high]:.1%}})"
        for place, answer in enumerate(rows[0]["answers"])
    }
    return columns(rows, FORMATS_TABLE | arms)
