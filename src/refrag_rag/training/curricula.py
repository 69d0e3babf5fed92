"""Training on text: the curricula of lengths by name, and what the stages on text do with them."""

from collections.abc import Callable
from random import Random
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentChunks, DocumentContinuation
from refrag_rag.training.feedback import FeedbackCurriculum, Watch
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.protocols import Lengths, Source
from refrag_rag.training.stage import TextSettings, run_stage

SHUFFLED = "shuffled"
CURRICULA = ("table8", "feedback", "longest", SHUFFLED)


def build_curriculum(name: str, *, chunks: int) -> LengthCurriculum:
    """A curriculum of contexts of up to `chunks` chunks.

    Raises
    ------
    InputError
        If there is no curriculum of that name.
    """
    if name not in CURRICULA:
        raise InputError(f"curriculum = {name!r}; expected one of {', '.join(CURRICULA)}.")
    if name == "feedback":
        return FeedbackCurriculum(maximum=chunks)
    return LengthCurriculum((chunks,) if name == "longest" else None, maximum=chunks)


def run_on_text(
    model: RefragModel,
    settings: TextSettings,
    stage: str,
    rows: Callable[[Documents, Lengths], DocumentChunks | DocumentContinuation],
) -> None:
    """Run a stage on prepared text, in the order of its curriculum; `rows` makes its source."""
    lengths = build_curriculum(settings.curriculum, chunks=settings.chunks)
    drawn = rows(Documents.open(settings.data, model.tokenizer), lengths)
    source: Source = settings.source(drawn.row) if settings.positions else drawn
    if settings.curriculum == SHUFFLED:
        source = Shuffled(source, steps=settings.steps, seed=settings.seed)
    watch = None
    if settings.held_out is not None and isinstance(lengths, FeedbackCurriculum):
        held_out = rows(Documents.open(settings.held_out, model.tokenizer), lengths)
        watch = Watch(settings.look_every, held_out, lengths)
    run_stage(model, source, settings, settings.out / stage, watch=watch)


class Shuffled:
    """Another source's batches, all of them, in random order: what a curriculum is measured by."""

    def __init__(self, source: Source, *, steps: int, seed: int) -> None:
        self.source, self.steps, self.seed = source, steps, seed
        self.order = Random(seed).sample(range(steps), steps)
        self.record, self.summary = source.record, source.summary
        self.state, self.restore = source.state, source.restore

    def draw(self, rng: Random, share: float) -> Any:  # noqa: ARG002
        """The batch that the source would give at another step."""
        place = self.order[min(self.steps - 1, round(share * self.steps))]
        return self.source.draw(Random(f"{self.seed}-{place}"), place / self.steps)
