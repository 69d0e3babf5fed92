"""Before the stages: the tokenizer, and a decoder from scratch that answers from full text.

Ends with a whole model whose encoder and projector are new.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from recipes.tiny.levels import LevelCurriculum
from recipes.tiny.pointing import pointing_objective
from recipes.tiny.settings import AskingSettings
from recipes.tiny.shape import build, build_decoder, decoder_config
from recipes.tiny.sources import WorldText, open_tasks, open_world
from recipes.tiny.tasks import Mix
from recipes.tiny.tokenizer import train_tokenizer
from refrag_rag.errors import InputError
from refrag_rag.training.batches import Batch
from refrag_rag.training.loop import train
from refrag_rag.training.reading import Readout, all_logits, last_states
from refrag_rag.training.settings import setting
from refrag_rag.training.stage import MODEL

STAGE = "base"


@dataclass(frozen=True, kw_only=True)
class BaseSettings(AskingSettings):
    """A decoder from scratch."""

    vocabulary: int = setting(3072, "size of the vocabulary")
    first_level: int = setting(0, "level of the curriculum to start at")
    restating: float = setting(0.35, "share of the steps that say all sentences again, shuffled")
    mastered: float = setting(0.88, "accuracy of the first answer token at which a level is left")
    easier: float = setting(0.1, "share of the steps at lower levels")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        for name in ("restating", "mastered", "easier"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}; expected 0 to 1.")


class PlainReader(nn.Module):
    """A decoder that reads batches without vectors.

    Parameters
    ----------
    decoder
        What is trained.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.model = decoder
        self._no_split_modules = sorted(decoder._no_split_modules or ())

    def forward(self, batch: Batch, encode: bool = False, read: Readout = all_logits) -> Any:  # noqa: ARG002
        """Logits, *shape* (B, T, vocabulary), or what `read` makes of the last states."""
        batch = batch.to(self.model.device)
        return read(*last_states(self.model, split=True, input_ids=batch.input_ids), batch)


def run(settings: BaseSettings) -> None:
    """Train tokenizer and base decoder, then put a new encoder before it."""
    torch.manual_seed(settings.seed)
    folder = settings.out / STAGE
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        world, size = open_world(settings.factbook), settings.vocabulary
        tokenizer = train_tokenizer(world, vocab_size=size, passages=20_000, seed=settings.seed)
        tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    decoder = build_decoder(decoder_config(len(tokenizer)))
    train(
        PlainReader(decoder),
        source=open_source(settings, tokenizer),
        settings=settings,
        folder=folder,
        objective=pointing_objective(decoder, settings.pointing),
    )
    torch.manual_seed(settings.seed + 1)
    build(decoder, tokenizer).save_pretrained(folder / MODEL)


def open_source(settings: BaseSettings, tokenizer: PreTrainedTokenizerBase) -> WorldText:
    """Questions on full text, from one passage of one fact to eight of six."""
    mix = Mix(copy=0.05, retell=0.05, plain_style=0.95, questions=settings.questions)
    levels = LevelCurriculum(
        start=settings.first_level, threshold=settings.mastered, below=settings.easier
    )
    tasks = open_tasks(tokenizer, mix, settings.factbook)
    return WorldText(tasks, levels, restating=settings.restating)
