"""Stage 1 of the recipe: chunks of the world's passages are rebuilt. The decoder is frozen."""

from dataclasses import dataclass

import torch

from recipes.tiny.base import STAGE as BASE
from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.settings import WorldSettings
from recipes.tiny.sources import WorldChunks, open_tasks
from recipes.tiny.tasks import Mix
from refrag_rag.model import RefragModel
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.reconstruct import STAGE
from refrag_rag.training.settings import setting
from refrag_rag.training.stage import freeze, run_stage, start_model


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings(WorldSettings):
    """What is rebuilt."""

    k_start: int = setting(1, "chunk size to grow from")


def run(settings: ReconstructSettings) -> None:
    """Train encoder and projector against the frozen decoder."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, BASE)
    freeze(model, [model.encoder, model.projector])
    run_stage(model, open_source(settings, model), settings, settings.out / STAGE)


def open_source(settings: ReconstructSettings, model: RefragModel) -> WorldChunks:
    """Runs of chunks, which grow; nothing is asked, so that real names would add nothing."""
    growth = ChunkGrowth(model.config.k, start=settings.k_start)
    return WorldChunks(open_tasks(model.tokenizer, Mix()), LengthCurriculum(), growth)
