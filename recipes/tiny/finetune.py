"""Stage 4 of the recipe: questions on eight passages, in the wordings of real chains."""

from dataclasses import dataclass

import torch

from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.levels import LEVELS, LevelCurriculum
from recipes.tiny.pointing import pointing_objective
from recipes.tiny.settings import AskingSettings
from recipes.tiny.sources import WorldMixture, open_tasks
from recipes.tiny.tasks import Mix
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.finetune import STAGE
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.settings import setting
from refrag_rag.training.stage import freeze, run_stage, start_model


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(AskingSettings):
    """What stays text, and how large contexts are."""

    text_shares: tuple[float, ...] = setting(
        (0.0, 0.0, 0.1, 1.0), "shares of chunks that stay text, one drawn a step"
    )
    easier: float = setting(0.5, "share of the steps with smaller contexts")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 <= self.easier <= 1:
            raise InputError(f"easier = {self.easier}; expected 0 to 1.")


def run(settings: FinetuneSettings) -> None:
    """Train everything on questions."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN)
    freeze(model, [model])
    objective = pointing_objective(model.decoder, settings.pointing)
    source, folder = open_source(settings, model), settings.out / STAGE
    run_stage(model, source, settings, folder, objective=objective)


def open_source(settings: FinetuneSettings, model: RefragModel) -> WorldMixture:
    """Whole chunks, and mostly contexts of the full size."""
    asked = settings.questions
    mix = Mix(copy=0.03, retell=0.05, plain_style=0.5, joined=0.1, questions=asked)
    return WorldMixture(
        open_tasks(model.tokenizer, mix, settings.factbook),
        LevelCurriculum(start=len(LEVELS) - 1, threshold=0.8, below=settings.easier),
        ChunkGrowth(model.config.k),
        reconstruction=(0.2, 0.2),
        text_shares=settings.text_shares,
    )
