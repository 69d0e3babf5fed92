"""Stage 4: fine-tuning on questions over passages, compressed, mixed and as full text.

``python -m refrag_rag.training.finetune --config small --out RUN`` (REFRAG, section 4)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.distil import distilled_rows
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.levels import LEVELS, LevelCurriculum
from refrag_rag.training.lora import add_adapter
from refrag_rag.training.pointing import pointing_objective
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.protocols import Source
from refrag_rag.training.question_sources import QuestionLayout, Questions
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import WORLD, WorldSettings, freeze, run_stage, start_model
from refrag_rag.training.tasks import Mix
from refrag_rag.training.world_sources import WorldMixture, open_tasks

STAGE = "finetune"


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(WorldSettings):
    """What is asked, and what may move."""

    max_passages: int = setting(10, "most passages of a prompt")
    text_shares: tuple[float, ...] = setting(
        (0.0, 0.0, 0.1, 1.0), "shares of chunks that stay text, one drawn an example or a step"
    )
    easier: float = setting(0.5, "of the world: share of the steps with smaller contexts")
    lora: int = setting(0, "rank of a LoRA adapter on the decoder, which then does not move itself")
    distil: float = setting(0.0, "weight of the divergence from the same decoder on full text")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.pointing and self.distil:
            raise InputError("pointing and distil are two objectives; expected one of them.")
        if self.lora < 0 or self.distil < 0:
            raise InputError(f"lora = {self.lora}, distil = {self.distil}; expected 0 or more.")
        if not 0 <= self.easier <= 1:
            raise InputError(f"easier = {self.easier}; expected 0 to 1.")


def run(settings: FinetuneSettings) -> None:
    """Train everything, or with an adapter encoder, projector and adapter, on questions."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN)
    freeze(model, [model])
    if settings.lora:
        add_adapter(model, rank=settings.lora)
    objective = pointing_objective(model.decoder, settings.pointing)
    if settings.distil:
        objective = partial(distilled_rows, weight=settings.distil)
    folder = settings.out / STAGE
    run_stage(model, _source(settings, model), settings, folder, objective=objective)


def _source(settings: FinetuneSettings, model: RefragModel) -> Source:
    if settings.data == WORLD:
        asked = settings.questions
        mix = Mix(copy=0.03, retell=0.05, plain_style=0.5, joined=0.1, questions=asked)
        return WorldMixture(
            open_tasks(model.tokenizer, mix, settings.factbook),
            LevelCurriculum(start=len(LEVELS) - 1, threshold=0.8, below=settings.easier),
            ChunkGrowth(model.config.k),
            reconstruction=(0.2, 0.2),
            text_shares=settings.text_shares,
        )
    layout = QuestionLayout(model, max_passages=settings.max_passages)
    return Questions(
        load_questions(settings.data),
        layout,
        batch_size=settings.batch_size,
        text_shares=settings.text_shares,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on questions."""
    run(parse(FinetuneSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
