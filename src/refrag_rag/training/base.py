"""Before the stages: the embedded model's tokenizer and a decoder that answers from full text.

Ends with a whole model whose encoder and projector are new. Other models start from a pretrained
decoder and need none of this. ``python -m refrag_rag.training.base --config tiny --out RUN``
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoTokenizer

from refrag_rag.errors import InputError
from refrag_rag.training.embedded import build, build_decoder, decoder_config
from refrag_rag.training.levels import LevelCurriculum
from refrag_rag.training.loop import train
from refrag_rag.training.pointing import pointing_objective
from refrag_rag.training.reading import PlainReader
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import MODEL, WorldSettings
from refrag_rag.training.tasks import Mix, Tasks
from refrag_rag.training.tokenizer import train_tokenizer
from refrag_rag.training.world import World
from refrag_rag.training.world.factbook import load_factbook
from refrag_rag.training.world_sources import WorldText

STAGE = "base"


@dataclass(frozen=True, kw_only=True)
class BaseSettings(WorldSettings):
    """A decoder from scratch."""

    vocabulary: int = setting(3072, "size of the vocabulary")
    first_level: int = setting(0, "level of the curriculum to start at")
    restating: float = setting(0.35, "share of the steps that say all sentences again, shuffled")
    mastered: float = setting(0.88, "accuracy of the first answer token at which a level is left")
    easier: float = setting(0.1, "share of the steps at lower levels")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        for name in ("restating", "mastered", "easier"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}; expected 0 to 1.")


def run(settings: BaseSettings) -> None:
    """Train tokenizer and base decoder, then put a new encoder before it."""
    torch.manual_seed(settings.seed)
    folder = settings.out / STAGE
    world = World(pools=load_factbook(settings.factbook) if settings.factbook else {})
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        tokenizer = train_tokenizer(
            world, vocab_size=settings.vocabulary, passages=20_000, seed=settings.seed
        )
        tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    decoder = build_decoder(decoder_config(len(tokenizer)))
    mix = Mix(copy=0.05, retell=0.05, plain_style=0.95, questions=settings.questions)
    tasks = Tasks(world, tokenizer.backend_tokenizer, mix)
    levels = LevelCurriculum(
        start=settings.first_level, threshold=settings.mastered, below=settings.easier
    )
    source = WorldText(tasks, levels, restating=settings.restating)
    objective = pointing_objective(decoder, settings.pointing)
    reader = PlainReader(decoder)
    train(reader, source=source, settings=settings, folder=folder, objective=objective)
    torch.manual_seed(settings.seed + 1)
    build(decoder, tokenizer).save_pretrained(folder / MODEL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train tokenizer and base decoder."""
    run(parse(BaseSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
