"""Encode many passages: sorted by length, cut ahead of the encoder, kept group by group."""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from refrag_rag.engine.lookup import PassageLookup
from refrag_rag.generation.answer import PrecomputeReport
from refrag_rag.model import RefragModel
from refrag_rag.model.windows import Window
from refrag_rag.spans import neutralise
from refrag_rag.store import passage_key
from refrag_rag.text.chunking import ChunkedPassage

BLOCK = 8192  # passages that are sorted together
GROUP = 256  # passages that are kept together: what a killed run can lose
T = TypeVar("T")
U = TypeVar("U")
logger = logging.getLogger(__name__)


def precompute(
    model: RefragModel,
    lookup: PassageLookup,
    texts: Iterable[str],
    *,
    needs: Collection[str],
    batch_size: int,
    progress: bool,
) -> PrecomputeReport:
    """Encode passages that the store has not.

    Parameters
    ----------
    model, lookup
        What encodes, and what knows and keeps.
    needs
        Scores to compute too.
    batch_size
        Encoder windows at once.
    progress
        Show a bar.
    """
    started = time.perf_counter()
    passages = encoded = chunks = hits = 0
    seen: set[str] = set()
    total = len(texts) if isinstance(texts, Sized) else None
    # Passages that are there already take no time: the rate is that of the last ones.
    with tqdm(total=total, unit="passage", disable=not progress, smoothing=0.05) as bar:
        for block in _parts(map(neutralise, texts), BLOCK):
            new = _new(block, seen)
            missing = _missing(lookup, new, needs)
            bar.update(len(block) - len(missing))
            passages += len(new)
            hits += len(new) - len(missing)
            if lookup.read_only and missing:
                logger.warning(
                    "The store is read-only and has not %d passages; they are encoded whenever "
                    "they are asked for.", len(missing),
                )  # fmt: skip
                continue
            for group in _encode(model, lookup, missing, needs, batch_size):
                bar.update(len(group))
                encoded += len(group)
                chunks += sum(map(len, group))
    return PrecomputeReport(passages, chunks, encoded, hits, time.perf_counter() - started)


def _new(texts: Iterable[str], seen: set[str]) -> dict[str, str]:
    """Texts by key that were not seen before."""
    passages = {passage_key(text): text for text in texts if text.strip()}
    new = {key: text for key, text in passages.items() if key not in seen}
    seen.update(new)
    return new


def _missing(
    lookup: PassageLookup, passages: Mapping[str, str], needs: Collection[str]
) -> dict[str, str]:
    """What the store has not, longest first."""
    missing: dict[str, str] = {}
    for group in map(dict, _parts(passages.items(), GROUP)):
        ready = lookup.ready(group, needs=needs)
        missing |= {key: text for key, text in group.items() if key not in ready}
    return dict(sorted(missing.items(), key=lambda passage: len(passage[1]), reverse=True))


def _encode(
    model: RefragModel,
    lookup: PassageLookup,
    passages: Mapping[str, str],
    needs: Collection[str],
    batch_size: int,
) -> Iterator[list[ChunkedPassage]]:
    """Encode and keep group by group."""

    def cut(group: Mapping[str, str]) -> tuple[dict[str, ChunkedPassage], list[list[Window]]]:
        chunked = {key: model.chunker.chunk(text) for key, text in group.items()}
        return chunked, [list(model.encoder.windows(passage)) for passage in chunked.values()]

    for chunked, windows in ahead(cut, map(dict, _parts(passages.items(), GROUP))):
        cuts = list(chunked.values())
        embeddings = model.encoder.encode(cuts, batch_size=batch_size, windows=windows)
        lookup.add(chunked, embeddings, needs=needs)
        yield cuts


def ahead(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Results in order; the next one is made in a thread while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="refrag-cut") as pool:
        left = iter(items)
        waiting = [pool.submit(work, item) for item in itertools.islice(left, 1)]
        while waiting:
            made = waiting.pop().result()
            waiting += [pool.submit(work, item) for item in itertools.islice(left, 1)]
            yield made


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while part := list(itertools.islice(left, size)):
        yield part
