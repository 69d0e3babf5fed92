"""Passages by their text: from the store, or encoded now; and which of their chunks become text."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refrag_rag.assembly import ParsedPrompt, SpanChunks
from refrag_rag.chunking import ChunkedPassage
from refrag_rag.model import RefragModel
from refrag_rag.policies import Chunks, Policy, budget
from refrag_rag.store import ChunkStore, PassageEntry, passage_key

VectorType = Literal["float16", "float32"]


@dataclass(frozen=True, eq=False)
class Found:
    """A passage, with its chunk embeddings unless it is to be read `as_text`.

    Attributes
    ----------
    hit
        Whether the store had it.
    encode_s
        Its share of the time spent encoding, in seconds.
    """

    chunked: ChunkedPassage
    entry: PassageEntry
    hit: bool
    as_text: bool = False
    encode_s: float = 0.0


class PassageLookup:
    """Looks passages up under the model's fingerprint.

    Parameters
    ----------
    model
        Encodes what the store has not.
    store
        Where entries are kept.
    dtype
        Of the chunk embeddings that are encoded from now on.
    """

    def __init__(self, model: RefragModel, store: ChunkStore, *, dtype: VectorType) -> None:
        self._model, self._store, self._dtype = model, store, np.dtype(dtype)
        self._lock = threading.Lock()

    @property
    def namespace(self) -> str:
        """The model's fingerprint."""
        with self._lock:  # computed once, on first use
            return self._model.fingerprint

    def find(self, texts: Sequence[str], *, encode: bool, batch_size: int = 64) -> dict[str, Found]:
        """Find passages; those that are missing are encoded and kept, or marked as text.

        Parameters
        ----------
        texts
            Different, neutralised texts.
        encode
            Whether to encode what is missing.
        batch_size
            Encoder windows at once.
        """
        if not texts:
            return {}
        entries = self._store.get(self.namespace, [passage_key(text) for text in texts])
        known = zip(texts, entries, strict=True)
        found = {text: Found(_restore(text, e), e, hit=True) for text, e in known if e is not None}
        missing = [self._model.chunker.chunk(text) for text in texts if text not in found]
        if missing:
            new = self._encode(missing, batch_size) if encode else map(self._as_text, missing)
            found |= {passage.chunked.text: passage for passage in new}
        return found

    def _encode(self, passages: Sequence[ChunkedPassage], batch_size: int) -> list[Found]:
        started = time.perf_counter()
        embeddings = self._model.encode(passages, batch_size=batch_size)
        entries = {
            passage.text: _entry(passage, tensor.float().cpu().numpy().astype(self._dtype))
            for passage, tensor in zip(passages, embeddings, strict=True)
        }
        self._store.put(self.namespace, {passage_key(t): entry for t, entry in entries.items()})
        each = (time.perf_counter() - started) / len(passages)
        return [Found(p, entries[p.text], hit=False, encode_s=each) for p in passages]

    def _as_text(self, passage: ChunkedPassage) -> Found:
        nothing = np.zeros((len(passage), self._model.config.chunk_width), self._dtype)
        return Found(passage, _entry(passage, nothing), hit=False, as_text=True)


def expand(
    parsed: ParsedPrompt,
    found: Mapping[str, Found],
    policy: Policy,
    share: float,
    question: str | None,
) -> list[SpanChunks]:
    """Let the policy choose among all chunks of one prompt, under the budget `share`."""
    items = [found[span.text] for span in parsed.spans]
    if not items:
        return []
    texts = [item.chunked.chunk_texts() for item in items]
    sizes = [len(one) for one in texts]
    mask = np.zeros(sum(sizes), bool)
    if len(mask):
        chunks = Chunks(
            texts=[text for one in texts for text in one],
            passages=np.repeat(np.arange(len(sizes)), sizes),
            embeddings=np.concatenate([item.entry.embeddings for item in items]),
            scores=_common_scores([item.entry for item in items]),
            retrieval=[span.score for span in parsed.spans],
        )
        asked = parsed.question if question is None else question
        mask = policy.select(chunks, asked, budget(share, len(mask)))
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    return [
        SpanChunks(item.entry, tuple(text), part | item.as_text, item.hit)
        for item, text, part in zip(items, texts, parts, strict=True)
    ]


def _common_scores(entries: Sequence[PassageEntry]) -> dict[str, NDArray[np.float32]]:
    """Scores that every passage has, over all chunks."""
    names = set.intersection(*(set(entry.scores) for entry in entries))
    return {name: np.concatenate([entry.scores[name] for entry in entries]) for name in names}


def _entry(
    chunked: ChunkedPassage, embeddings: NDArray[np.float16] | NDArray[np.float32]
) -> PassageEntry:
    return PassageEntry(
        embeddings=embeddings,
        token_ids=np.array(chunked.token_ids, np.int32),
        chunk_lengths=np.array(chunked.chunk_lengths, np.int32),
        char_ends=np.array(chunked.char_ends, np.int32),
    )


def _restore(text: str, entry: PassageEntry) -> ChunkedPassage:
    return ChunkedPassage(
        text,
        tuple(entry.token_ids.tolist()),
        tuple(entry.chunk_lengths.tolist()),
        tuple(entry.char_ends.tolist()),
    )
