"""Stage 2: continual pre-training. Everything moves; first all vectors, then mixed with text.

The next paragraph is predicted from the compressed one before it. The embedded model's world
goes on rebuilding beside it, and tells the facts of a passage again in other words.
``python -m refrag_rag.training.pretrain --config small --out RUN`` (REFRAG, section 2.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refrag_rag.model import RefragModel
from refrag_rag.training.curricula import build_curriculum, ordered, watch_for
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentContinuation
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.levels import LevelCurriculum
from refrag_rag.training.pointing import pointing_objective
from refrag_rag.training.reconstruct import STAGE as RECONSTRUCT
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import (
    WORLD,
    TextSettings,
    WorldSettings,
    freeze,
    run_stage,
    start_model,
)
from refrag_rag.training.tasks import Mix
from refrag_rag.training.world_sources import WorldMixture, open_tasks

STAGE = "pretrain"


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TextSettings, WorldSettings):
    """What is predicted from what."""

    following: int = setting(2048, "most tokens to predict")
    text_shares: tuple[float, ...] = setting(
        (0.0, 0.1), "shares of chunks that stay text, one phase each (world: one drawn a step)"
    )


def run(settings: PretrainSettings) -> None:
    """Train everything on mixed input."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, RECONSTRUCT)
    freeze(model, [model])
    folder = settings.out / STAGE
    if settings.data == WORLD:
        objective = pointing_objective(model.decoder, settings.pointing)
        run_stage(model, _world_source(settings, model), settings, folder, objective=objective)
        return
    lengths = build_curriculum(settings.curriculum, k=model.config.k, chunks=settings.chunks)

    def source(data: str) -> DocumentContinuation:
        return DocumentContinuation(
            Documents.open(data, model.tokenizer),
            model,
            lengths,
            batch_size=settings.batch_size,
            following=settings.following,
            text_shares=settings.text_shares,
        )

    watch = watch_for(settings, lengths, source)
    run_stage(model, ordered(source(settings.data), settings), settings, folder, watch=watch)


def _world_source(settings: PretrainSettings, model: RefragModel) -> WorldMixture:
    mix = Mix(copy=0.05, retell=0.05, plain_style=0.95, questions=settings.questions)
    return WorldMixture(
        open_tasks(model.tokenizer, mix, settings.factbook),
        LevelCurriculum(start=2, threshold=0.7),
        ChunkGrowth(model.config.k, start=1, threshold=0.8),
        reconstruction=(0.6, 0.25),
        text_shares=settings.text_shares,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train everything on mixed input."""
    run(parse(PretrainSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
