"""The curricula of lengths by name, and their control: the same batches in random order."""

from collections.abc import Callable
from random import Random
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.training.document_sources import Lengths
from refrag_rag.training.feedback import FeedbackCurriculum, HasRows, Watch
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.protocols import Source
from refrag_rag.training.stage import TextSettings

SHUFFLED = "shuffled"


def _longest(chunks: int) -> Lengths:
    return LengthCurriculum((chunks,), maximum=chunks)


def _table(chunks: int) -> Lengths:
    return LengthCurriculum(maximum=chunks)


def _feedback(chunks: int) -> Lengths:
    return FeedbackCurriculum(maximum=chunks)


CURRICULA: dict[str, Callable[[int], Lengths]] = {
    "table8": _table,
    "feedback": _feedback,
    "longest": _longest,
    SHUFFLED: _table,
}


def build_curriculum(name: str, *, chunks: int) -> Lengths:
    """A curriculum of contexts of up to `chunks` chunks.

    Raises
    ------
    InputError
        If there is no curriculum of that name.
    """
    if name not in CURRICULA:
        raise InputError(f"curriculum = {name!r}; expected one of {', '.join(CURRICULA)}.")
    return CURRICULA[name](chunks)


def ordered(source: Source, settings: TextSettings) -> Source:
    """The source as its curriculum orders it, or shuffled."""
    if settings.curriculum != SHUFFLED:
        return source
    return Shuffled(source, steps=settings.steps, seed=settings.seed)


def watch_for(
    settings: TextSettings, lengths: Lengths, source: Callable[[str], HasRows]
) -> Watch | None:
    """Held-out text for a curriculum that is led by it; `source` opens a folder."""
    if settings.held_out is None or not isinstance(lengths, FeedbackCurriculum):
        return None
    return Watch(settings.look_every, source(settings.held_out), lengths)


class Shuffled:
    """Another source's batches, all of them, in random order: what a curriculum is measured by.

    Parameters
    ----------
    source
        Whose steps are shuffled.
    steps, seed
        Of the run.
    """

    def __init__(self, source: Source, *, steps: int, seed: int) -> None:
        self.source, self.steps, self.seed = source, steps, seed
        self.order = Random(seed).sample(range(steps), steps)
        self.record, self.summary = source.record, source.summary
        self.state, self.restore = source.state, source.restore

    def draw(self, rng: Random, share: float) -> Any:  # noqa: ARG002
        """The batch that the source would give at another step."""
        place = self.order[min(self.steps - 1, round(share * self.steps))]
        return self.source.draw(Random(f"{self.seed}-{place}"), place / self.steps)
