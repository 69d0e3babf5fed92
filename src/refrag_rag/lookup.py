"""Passages by their text: from the store, or encoded now."""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from refrag_rag.chunking import ChunkedPassage
from refrag_rag.errors import InputError
from refrag_rag.fingerprint import State, weights_state
from refrag_rag.model import RefragModel
from refrag_rag.policies import QUESTION
from refrag_rag.rows import RowBuffers
from refrag_rag.scoring import SCORERS, Scorer
from refrag_rag.store import ChunkStore, PassageEntry, passage_key
from refrag_rag.store.rows import read_rows

VectorType = Literal["float16", "float32"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """A passage, with its chunk embeddings unless it is to be read `as_text`.

    Attributes
    ----------
    text, entry
        The passage.
    hit
        Whether the store had it.
    encode_s
        Its share of the time spent encoding and scoring, in seconds.
    needed
        Names of the scores that were needed, and under which they are stored.
    """

    text: str
    entry: PassageEntry
    hit: bool
    as_text: bool = False
    encode_s: float = 0.0
    needed: Mapping[str, str] = field(default_factory=dict)

    @property
    def chunked(self) -> ChunkedPassage:
        """The passage as the chunker gave it."""
        entry = self.entry
        return ChunkedPassage(
            self.text,
            tuple(entry.token_ids.tolist()),
            tuple(entry.chunk_lengths.tolist()),
            tuple(entry.char_ends.tolist()),
        )

    @cached_property
    def scores(self) -> Mapping[str, NDArray[np.float32]]:
        """Per-chunk scores under the names that policies know, each *shape* (L,).

        Those that were needed are all there, NaN where they are not known.
        """
        return _visible(self.entry, self.needed)


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
        self._buffers = RowBuffers(pinned=model.device.type == "cuda")
        self._scorers: dict[str, tuple[State, Scorer]] = {}
        self._lock = threading.Lock()

    @property
    def namespace(self) -> str:
        """The model's fingerprint."""
        with self._lock:  # computed once for each state of the weights
            return self._model.fingerprint

    def find(
        self,
        texts: Sequence[str],
        *,
        encode: bool,
        needs: Collection[str] = (),
        batch_size: int = 64,
        must_keep: bool = False,
    ) -> dict[str, Found]:
        """Find passages with what a policy needs; what is missing is made and kept, or left out.

        Parameters
        ----------
        texts
            Different, neutralised texts.
        encode
            Whether to encode passages and compute scores that are missing; otherwise such passages
            are marked as text, and such scores are NaN.
        needs
            Names of scores; ``question`` is none of the passages' business and is passed over.
        batch_size
            Encoder windows at once.
        must_keep
            Whether a read-only store is an error; otherwise what was made is not kept.

        Raises
        ------
        InputError
            If a needed score is missing that cannot be computed here.
        StoreError
            If the store cannot be read or written.
        """
        if not texts:
            return {}
        keys = [passage_key(text) for text in texts]
        entries = read_rows(self._store, self.namespace, keys, self._buffers.allocate)
        known = zip(texts, entries, strict=True)
        found = {text: Found(text, entry, hit=True) for text, entry in known if entry is not None}
        missing = [self._model.chunker.chunk(text) for text in texts if text not in found]
        names = {name: self._stored_name(name) for name in needs if name != QUESTION}
        if encode:
            found |= self._complete(found, missing, names, batch_size, must_keep)
        else:
            found |= {passage.text: self._as_text(passage) for passage in missing}
        if not names:
            return found
        return {text: replace(one, needed=names) for text, one in found.items()}

    def known(
        self, texts: Sequence[str], *, needs: Collection[str] = ()
    ) -> tuple[dict[str, int], list[str]]:
        """Passages that the store has, with how many chunks; and those that lack a needed score."""
        names = {self._stored_name(name) for name in needs}
        keys = [passage_key(text) for text in texts]
        entries = read_rows(self._store, self.namespace, keys, self._buffers.allocate)
        found = {text: e for text, e in zip(texts, entries, strict=True) if e is not None}
        lacking = [t for t, entry in found.items() if names and names - entry.scores.keys()]
        return {text: len(entry.embeddings) for text, entry in found.items()}, lacking

    def add(
        self,
        passages: Sequence[ChunkedPassage],
        embeddings: Sequence[NDArray[Any]],
        *,
        needs: Collection[str] = (),
    ) -> None:
        """Keep passages that were encoded elsewhere, with the scores that are needed.

        Raises
        ------
        StoreError
            If the store cannot be written.
        """
        made = {
            passage.text: Found(passage.text, _entry(passage, array.astype(self._dtype)), hit=False)
            for passage, array in zip(passages, embeddings, strict=True)
        }
        for name in needs:
            made |= self._score(list(made.values()), name)
        self._keep(made, must_keep=True)

    def embed(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Chunk embeddings of texts that are not kept, such as questions.

        Returns
        -------
        dict
            *Shape:* (Q, D_enc) each.
        """
        passages = [self._model.chunker.chunk(text) for text in dict.fromkeys(texts)]
        made = self._model.encode(passages)
        return {p.text: self._array(one) for p, one in zip(passages, made, strict=True)}

    def _complete(
        self,
        found: dict[str, Found],
        missing: Sequence[ChunkedPassage],
        names: Mapping[str, str],
        batch_size: int,
        must_keep: bool,
    ) -> dict[str, Found]:
        """Passages that the store had not, or had without a needed score: now complete and kept."""
        started = time.perf_counter()
        made = self._encode(missing, batch_size)
        for name, stored in names.items():
            lacking = [one for one in (found | made).values() if stored not in one.entry.scores]
            if lacking:
                made |= self._score(lacking, name)
        if made:
            self._keep(made, must_keep)
        each = (time.perf_counter() - started) / max(1, len(made))
        return {text: replace(one, encode_s=each) for text, one in made.items()}

    def _encode(self, passages: Sequence[ChunkedPassage], batch_size: int) -> dict[str, Found]:
        if not passages:
            return {}
        embeddings = self._model.encode(passages, batch_size=batch_size)
        return {
            passage.text: Found(passage.text, _entry(passage, self._array(tensor)), hit=False)
            for passage, tensor in zip(passages, embeddings, strict=True)
        }

    def _score(self, lacking: Sequence[Found], name: str) -> dict[str, Found]:
        """Passages with one more score, beside those that they have."""
        if name not in SCORERS:
            raise InputError(
                f"{len(lacking)} passages have no score {name!r}, which the policy needs; expected "
                f"one of {', '.join(SCORERS)}, or that the store has it. Put it into the entries "
                "of the store first."
            )
        scorer = self._scorer(name)
        values = scorer.score([one.chunked for one in lacking])
        return {
            one.text: replace(one, entry=_with_score(one.entry, scorer.name, value))
            for one, value in zip(lacking, values, strict=True)
        }

    def _keep(self, made: Mapping[str, Found], must_keep: bool) -> None:
        if getattr(self._store, "read_only", False) and not must_keep:
            logger.info("The store is read-only: %d passages were made but not kept.", len(made))
            return
        entries = {passage_key(text): _own(one.entry) for text, one in made.items()}
        self._store.put(self.namespace, entries)

    def _stored_name(self, name: str) -> str:
        return self._scorer(name).name if name in SCORERS else name

    def _scorer(self, name: str) -> Scorer:
        with self._lock:  # built once for each state of the decoder's weights: it reads them all
            state = weights_state(self._model.decoder)
            if name not in self._scorers or self._scorers[name][0] != state:
                self._scorers[name] = (state, SCORERS[name](self._model))
            return self._scorers[name][1]

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        return tensor.float().cpu().numpy().astype(self._dtype)

    def _as_text(self, passage: ChunkedPassage) -> Found:
        nothing = np.zeros((len(passage), self._model.config.chunk_width), self._dtype)
        return Found(passage.text, _entry(passage, nothing), hit=False, as_text=True)


def _visible(entry: PassageEntry, names: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """An entry's scores for policies: without fingerprints, and without those of other models.

    Parameters
    ----------
    names
        What is needed, and under which name it is stored.
    """
    if not entry.scores and not names:
        return {}
    own = {name: s for name, s in entry.scores.items() if name.partition(".")[0] not in SCORERS}
    unknown = np.full(len(entry.chunk_lengths), np.nan, np.float32)
    return own | {name: entry.scores.get(stored, unknown) for name, stored in names.items()}


def _with_score(entry: PassageEntry, name: str, values: NDArray[np.float32]) -> PassageEntry:
    return PassageEntry(
        entry.embeddings,
        entry.token_ids,
        entry.chunk_lengths,
        entry.char_ends,
        {**entry.scores, name: values},
    )


def _own(entry: PassageEntry) -> PassageEntry:
    """An entry with memory of its own: a store may keep it, and would keep the whole buffer."""
    if entry.embeddings.base is None:
        return entry
    copied: Any = np.array(entry.embeddings)
    return replace(entry, embeddings=copied)


def _entry(
    chunked: ChunkedPassage, embeddings: NDArray[np.float16] | NDArray[np.float32]
) -> PassageEntry:
    return PassageEntry(
        embeddings=embeddings,
        token_ids=np.array(chunked.token_ids, np.int32),
        chunk_lengths=np.array(chunked.chunk_lengths, np.int32),
        char_ends=np.array(chunked.char_ends, np.int32),
    )
