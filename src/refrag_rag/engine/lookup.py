"""Passages by their text: from the store, or encoded now."""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from refrag_rag.engine.scoring import SCORERS, Scorers
from refrag_rag.errors import InputError, StoreError
from refrag_rag.model import RefragModel
from refrag_rag.policies import QUESTION
from refrag_rag.store import ChunkStore, PassageEntry, passage_key
from refrag_rag.store.entry import check_finite
from refrag_rag.text.chunking import ChunkedPassage

VectorType = Literal["float16", "float32"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """A passage, with its chunk embeddings unless it is to be read `as_text`.

    Attributes
    ----------
    key, text, entry
        The passage, and what the store calls it.
    hit
        Whether the store had it.
    encode_s
        Its share of the time spent encoding and scoring, in seconds.
    scores
        Per-chunk scores under the names that policies know, each *shape* (L,); NaN: unknown.
    """

    key: str
    text: str
    entry: PassageEntry
    hit: bool
    as_text: bool = False
    encode_s: float = 0.0
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

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
        if dtype not in ("float16", "float32"):
            raise InputError(f"vectors = {dtype!r}; expected 'float16' or 'float32'.")
        self._model, self._store, self._dtype = model, store, np.dtype(dtype)
        self._scorers = Scorers(model)
        self._lock = threading.Lock()

    @property
    def namespace(self) -> str:
        """The model's fingerprint."""
        with self._lock:  # computed once for each state of the weights
            return self._model.fingerprint

    @property
    def read_only(self) -> bool:
        """Whether what is made cannot be kept."""
        return self._store.read_only

    @property
    def largest(self) -> float:
        """The largest number that a chunk embedding can be kept with."""
        return float(np.finfo(self._dtype).max)

    def find(
        self, texts: Sequence[str], *, encode: bool, needs: Collection[str] = ()
    ) -> dict[str, Found]:
        """Find passages with what a policy needs; what is missing is made and kept, or left out.

        A store that cannot be written costs time, not the answer: that is logged.

        Parameters
        ----------
        texts
            Different, neutralised texts.
        encode
            Whether to encode passages and compute scores that are missing; otherwise such passages
            are marked as text, and such scores are NaN.
        needs
            Names of scores; ``question`` is none of the passages' business and is passed over.

        Raises
        ------
        InputError
            If a needed score is missing that cannot be computed here.
        StoreError
            If the store cannot be read.
        """
        if not texts:
            return {}
        passages = {passage_key(text): text for text in texts}
        names = self._stored_names(needs)
        found = self._stored(passages)
        missing = {
            key: self._model.chunker.chunk(text)
            for key, text in passages.items()
            if text not in found
        }
        if encode and (missing or names):
            found |= self._made(found, missing, names)
        elif not encode:
            found |= {p.text: self._as_text(key, p) for key, p in missing.items()}
        return {
            text: replace(one, scores=_visible(one.entry, names))
            if one.entry.scores or names
            else one
            for text, one in found.items()
        }

    def ready(self, passages: Mapping[str, str], *, needs: Collection[str] = ()) -> set[str]:
        """Keys of passages that the store has; scores that they lack are computed and kept.

        Parameters
        ----------
        passages
            Texts by key.
        needs
            Names of scores. Without any, chunk embeddings are not read.
        """
        if not needs:
            there = self._store.contains(self.namespace, list(passages))
            return {key for key, one in zip(passages, there, strict=True) if one}
        found = self._stored(passages)
        if not self.read_only:
            self._put(self._scored(found, self._stored_names(needs)))
        return {one.key for one in found.values()}

    def add(
        self,
        passages: Mapping[str, ChunkedPassage],
        embeddings: Sequence[Tensor],
        *,
        needs: Collection[str] = (),
    ) -> None:
        """Keep passages that were encoded, with the scores that are needed.

        Parameters
        ----------
        passages
            By key.
        embeddings
            *Shape:* (L, D_enc) each.
        needs
            Names of scores.
        """
        made = self._encoded(passages, embeddings)
        self._put(made | self._scored(made, self._stored_names(needs)))

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

    def _stored(self, passages: Mapping[str, str]) -> dict[str, Found]:
        """What the store has of passages by key."""
        width = self._model.config.chunk_width
        found: dict[str, Found] = {}
        entries = self._store.get(self.namespace, list(passages))
        for (key, text), entry in zip(passages.items(), entries, strict=True):
            if entry is not None and entry.embeddings.shape[1] == width:
                found[text] = Found(key, text, entry, hit=True)
            elif entry is not None:
                logger.warning(
                    "The entry %s has %d numbers a vector and not %d; it counts as missing.",
                    key, entry.embeddings.shape[1], width,
                )  # fmt: skip
        return found

    def _made(
        self,
        found: Mapping[str, Found],
        missing: Mapping[str, ChunkedPassage],
        names: Mapping[str, str],
    ) -> dict[str, Found]:
        """Passages that the store had not, or had without a needed score: now complete and kept."""
        started = time.perf_counter()
        embeddings = self._model.encode(list(missing.values())) if missing else []
        made = self._encoded(missing, embeddings)
        made |= self._scored({**found, **made}, names)
        if self.read_only and made:
            logger.info("The store is read-only: %d passages were made but not kept.", len(made))
        else:
            try:
                self._put(made)
            except StoreError as error:
                logger.warning("%d passages were made but not kept: %s", len(made), error)
        each = (time.perf_counter() - started) / max(1, len(made))
        return {text: replace(one, encode_s=each) for text, one in made.items()}

    def _encoded(
        self, passages: Mapping[str, ChunkedPassage], embeddings: Sequence[Tensor]
    ) -> dict[str, Found]:
        return {
            passage.text: Found(key, passage.text, _entry(passage, self._array(one)), hit=False)
            for (key, passage), one in zip(passages.items(), embeddings, strict=True)
        }

    def _scored(self, passages: Mapping[str, Found], names: Mapping[str, str]) -> dict[str, Found]:
        """Those passages that lack a score, with all of them."""
        made: dict[str, Found] = {}
        for name, stored in names.items():
            now = {**passages, **made}.values()
            lacking = [one for one in now if stored not in one.entry.scores]
            values = self._scorers.score(name, [one.chunked for one in lacking]) if lacking else []
            for one, value in zip(lacking, values, strict=True):
                scores = {**one.entry.scores, stored: value}
                made[one.text] = replace(one, entry=replace(one.entry, scores=scores))
        return made

    def _put(self, made: Mapping[str, Found]) -> None:
        self._store.put(self.namespace, {one.key: one.entry for one in made.values()})

    def _stored_names(self, needs: Collection[str]) -> dict[str, str]:
        return {name: self._scorers.stored_name(name) for name in needs if name != QUESTION}

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            array = tensor.float().cpu().numpy().astype(self._dtype)
        check_finite(array)  # also where the store would not
        return array

    def _as_text(self, key: str, passage: ChunkedPassage) -> Found:
        nothing = np.zeros((len(passage), self._model.config.chunk_width), self._dtype)
        return Found(key, passage.text, _entry(passage, nothing), hit=False, as_text=True)


def _visible(entry: PassageEntry, names: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """An entry's scores for policies: without fingerprints, and without those of other models.

    Parameters
    ----------
    names
        What is needed, and under which name it is stored.
    """
    own = {name: s for name, s in entry.scores.items() if name.partition(".")[0] not in SCORERS}
    unknown = np.full(len(entry.chunk_lengths), np.nan, np.float32)
    return own | {name: entry.scores.get(stored, unknown) for name, stored in names.items()}


def _entry(
    chunked: ChunkedPassage, embeddings: NDArray[np.float16] | NDArray[np.float32]
) -> PassageEntry:
    return PassageEntry(
        embeddings=embeddings,
        token_ids=np.array(chunked.token_ids, np.int32),
        chunk_lengths=np.array(chunked.chunk_lengths, np.int32),
        char_ends=np.array(chunked.char_ends, np.int32),
    )
