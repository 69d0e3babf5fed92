"""Stage 4: fine-tuning on questions over passages, compressed, mixed and as full text.

``python -m refrag_rag.training.finetune --config small --out RUN`` (REFRAG, section 4). Of several
sets of questions each has its weight, and with ``--text`` some examples rebuild or continue text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.layout import QuestionLayout, word_policy
from refrag_rag.training.loss import Objective, distilled_rows, next_token_loss
from refrag_rag.training.packing import MakeRow
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.question_sources import Questions, Reading
from refrag_rag.training.rehearsal import Rehearsal
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import ModelSettings, run_stage, set_moving, start_model

STAGE = "finetune"
CHANCE = "random"  # each chunk by itself, instead of a policy


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(ModelSettings):
    """What is asked, how it is read, and what else is read beside it."""

    data: tuple[str, ...] = field(
        metadata={"about": "question records: JSON lines, prepared folders, hf:DATASET"}
    )
    weights: tuple[float, ...] = setting((), "how often each of these is drawn (default: by size)")
    max_passages: int = setting(10, "most passages of a prompt", least=1)
    passages: tuple[int, ...] = setting(
        (), "numbers of passages, one drawn an example (default: the most)"
    )
    distractors: bool = setting(False, "fill up that number with passages of other records")
    longest: int | None = setting(
        None, "most positions; examples lose passages without the answer until they fit"
    )
    questions: tuple[int, ...] = setting(
        (1,), "numbers of questions, one drawn an example; further ones follow in turn"
    )
    text_shares: tuple[float, ...] = setting(
        (0.0, 0.0, 0.1, 1.0), "shares of chunks that stay text, one drawn an example"
    )
    choose: tuple[str, ...] = setting(
        (CHANCE,), "who chooses these chunks: random, or policies that read words and scores"
    )
    text: str | None = setting(None, "prepared text, to rebuild and to continue beside questions")
    rehearsal: float = setting(0.25, "share of such examples, if there is text")
    rehearsal_weight: float = setting(0.03, "of the loss on each of their tokens; answers have 1")
    chunks: int = setting(64, "of text: most chunks of an example", least=1)
    distil: float = setting(
        0.0, "weight of the divergence from the same decoder on full text", least=0
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if not 0 <= self.rehearsal <= 1:
            raise InputError(f"rehearsal = {self.rehearsal}; expected a share between 0 and 1.")
        if not self.questions or min(self.questions) < 1:
            raise InputError(f"questions = {self.questions}; expected numbers of at least 1.")
        if self.passages and not 1 <= min(self.passages) <= max(self.passages) <= self.max_passages:
            raise InputError(
                f"passages = {self.passages}; expected 1 to max_passages = {self.max_passages}."
            )


def run(settings: FinetuneSettings) -> None:
    """Train everything, or with an adapter encoder, projector and adapter, on questions."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN)
    set_moving(model, settings, decoder=True)
    objective: Objective = next_token_loss
    if settings.distil:
        objective = partial(distilled_rows, weight=settings.distil)
    source = settings.source(_rows(settings, model))
    run_stage(model, source, settings, settings.out / STAGE, objective=objective)


def _rows(settings: FinetuneSettings, model: RefragModel) -> MakeRow:
    """Questions, and between them what is rehearsed."""
    sizes = settings.chunk_sizes(model)
    reading = Reading(
        sizes=sizes,
        text_shares=settings.text_shares,
        choosing=tuple(None if n == CHANCE else word_policy(n) for n in settings.choose),
        passages=settings.passages,
        distractors=settings.distractors,
        longest=settings.longest,
        questions=settings.questions,
    )
    questions = Questions(
        [load_questions(source) for source in settings.data],
        QuestionLayout(model, max_passages=settings.max_passages),
        reading,
        weights=settings.weights,
    )
    if settings.text is None:
        return questions.row
    rehearsal = Rehearsal(
        questions.row,
        Documents.open(settings.text, model.tokenizer),
        model,
        sizes,
        share=settings.rehearsal,
        weight=settings.rehearsal_weight,
        chunks=settings.chunks,
    )
    return rehearsal.row


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on questions."""
    run(parse(FinetuneSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
