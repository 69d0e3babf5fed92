"""Stage 2 of the recipe: everything moves. Contexts as vectors and text; rebuilding between."""

from dataclasses import dataclass

import torch

from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.levels import LevelCurriculum
from recipes.tiny.pointing import pointing_objective
from recipes.tiny.settings import AskingSettings
from recipes.tiny.sources import WorldMixture, open_tasks
from recipes.tiny.tasks import Mix
from refrag_rag.model import RefragModel
from refrag_rag.training.pretrain import STAGE
from refrag_rag.training.reconstruct import STAGE as RECONSTRUCT
from refrag_rag.training.settings import setting
from refrag_rag.training.stage import freeze, run_stage, start_model


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(AskingSettings):
    """What stays text."""

    text_shares: tuple[float, ...] = setting(
        (0.0, 0.1), "shares of chunks that stay text, one drawn a step"
    )


def run(settings: PretrainSettings) -> None:
    """Train everything on mixed input."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, RECONSTRUCT)
    freeze(model, [model])
    objective = pointing_objective(model.decoder, settings.pointing)
    source, folder = open_source(settings, model), settings.out / STAGE
    run_stage(model, source, settings, folder, objective=objective)


def open_source(settings: PretrainSettings, model: RefragModel) -> WorldMixture:
    """Contexts and chunks that grow."""
    mix = Mix(copy=0.05, retell=0.05, plain_style=0.95, questions=settings.questions)
    return WorldMixture(
        open_tasks(model.tokenizer, mix, settings.factbook),
        LevelCurriculum(start=2, threshold=0.7),
        ChunkGrowth(model.config.k, start=1, threshold=0.8),
        reconstruction=(0.6, 0.25),
        text_shares=settings.text_shares,
    )
