"""Encode many passages: sorted by length, cut ahead of the encoder, kept group by group."""

import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from tqdm import tqdm

from refrag_rag.answer import PrecomputeReport
from refrag_rag.encoder_pool import Encoded, EncoderPool, encode_group
from refrag_rag.errors import InputError
from refrag_rag.lookup import PassageLookup
from refrag_rag.model import RefragModel
from refrag_rag.spans import neutralise

BLOCK = 8192  # passages that are sorted together
GROUP = 256  # passages that are kept together: what a killed run can lose
Encoding = Callable[[Sequence[Sequence[str]]], Iterator[Encoded]]
T = TypeVar("T")
U = TypeVar("U")


class Precompute:
    """One run over passages.

    Parameters
    ----------
    model, lookup
        What encodes, and what knows and keeps.
    needs
        Scores to compute too.
    batch_size
        Encoder windows at once.
    workers
        Processes that encode; 1 is this one.

    Raises
    ------
    InputError
        If an argument cannot be used.
    """

    def __init__(
        self,
        model: RefragModel,
        lookup: PassageLookup,
        *,
        needs: Collection[str],
        batch_size: int,
        workers: int,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} = {value!r}; expected at least 1.")
        self._model, self._lookup, self._needs = model, lookup, needs
        self._batch_size, self._workers = batch_size, workers

    def run(self, texts: Iterable[str], *, progress: bool) -> PrecomputeReport:
        """Encode what the store has not."""
        started = time.perf_counter()
        report = PrecomputeReport(0, 0, 0, 0, 0.0)
        total = len(texts) if isinstance(texts, Sized) else None
        # Passages that are there already take no time: the rate is that of the last ones.
        with tqdm(total=total, unit="passage", disable=not progress, smoothing=0.05) as bar:
            seen: set[bytes] = set()
            with ExitStack() as stack:
                encode = self._encoding(stack)
                for block in _blocks(map(neutralise, texts), BLOCK):
                    fresh = [text for text in block if text.strip() and _first(text, seen)]
                    bar.update(len(block) - len(fresh))
                    report = self._block(fresh, report, bar, encode)
        return replace(report, seconds=time.perf_counter() - started)

    def _block(
        self, texts: Sequence[str], report: PrecomputeReport, bar: tqdm, encode: Encoding
    ) -> PrecomputeReport:
        known = self._known(texts)
        bar.update(len(known))
        report = replace(
            report,
            passages=report.passages + len(texts),
            chunks=report.chunks + sum(known.values()),
            hits=report.hits + len(known),
        )
        missing = sorted((t for t in texts if t not in known), key=len, reverse=True)
        groups = [missing[i : i + GROUP] for i in range(0, len(missing), GROUP)]
        for encoded in encode(groups):
            self._lookup.add(encoded.passages, encoded.embeddings, needs=self._needs)
            bar.update(len(encoded.passages))
            report = replace(
                report,
                encoded=report.encoded + len(encoded.passages),
                chunks=report.chunks + sum(map(len, encoded.passages)),
            )
        return report

    def _known(self, texts: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(texts), GROUP):
            known, lacking = self._lookup.known(texts[start : start + GROUP], needs=self._needs)
            found |= known
            self._lookup.find(lacking, encode=True, needs=self._needs, must_keep=True)
        return found

    def _encoding(self, stack: ExitStack) -> Encoding:
        """What encodes groups: this process, or others that are started when there is work."""
        pools: list[EncoderPool] = []

        def elsewhere(groups: Sequence[Sequence[str]]) -> Iterator[Encoded]:
            if groups and not pools:
                pool = EncoderPool(self._model, self._workers, batch_size=self._batch_size)
                pools.append(stack.enter_context(pool))
            return pools[0].encode(groups) if groups else iter(())

        return self._here if self._workers == 1 else elsewhere

    def _here(self, groups: Sequence[Sequence[str]]) -> Iterator[Encoded]:
        encoder, chunker = self._model.encoder, self._model.chunker

        def cut(group: Sequence[str]) -> Callable[[], Encoded]:
            passages = [chunker.chunk(text) for text in group]
            windows = [list(encoder.windows(passage)) for passage in passages]
            return lambda: encode_group(encoder, passages, windows, self._batch_size)

        for encode in ahead(cut, groups):
            yield encode()


def ahead(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Results in order; the next one is made in a thread while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="refrag-cut") as pool:
        left = iter(items)
        waiting = [pool.submit(work, item) for item in itertools.islice(left, 1)]
        while waiting:
            made = waiting.pop().result()
            waiting += [pool.submit(work, item) for item in itertools.islice(left, 1)]
            yield made


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    left = iter(texts)
    while block := list(itertools.islice(left, size)):
        yield block


def _first(text: str, seen: set[bytes]) -> bool:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True
