"""Stage 4: fine-tuning on questions over passages, compressed, mixed and as full text.

``python -m refrag_rag.training.finetune --config small --out RUN`` (REFRAG, section 4)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.loss import Objective, distilled_rows, next_token_loss
from refrag_rag.training.pretrain import STAGE as PRETRAIN
from refrag_rag.training.question_sources import QuestionLayout, Questions
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import (
    DataSettings,
    add_adapter,
    freeze,
    run_stage,
    start_model,
)

STAGE = "finetune"


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(DataSettings):
    """What is asked, and what may move."""

    max_passages: int = setting(10, "most passages of a prompt")
    text_shares: tuple[float, ...] = setting(
        (0.0, 0.0, 0.1, 1.0), "shares of chunks that stay text, one drawn an example"
    )
    lora: int = setting(
        0, "rank of a LoRA adapter on the decoder, which then does not move itself", least=0
    )
    distil: float = setting(
        0.0, "weight of the divergence from the same decoder on full text", least=0
    )


def run(settings: FinetuneSettings) -> None:
    """Train everything, or with an adapter encoder, projector and adapter, on questions."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, PRETRAIN)
    freeze(model, [model])
    if settings.lora:
        add_adapter(model, rank=settings.lora)
    objective: Objective = next_token_loss
    if settings.distil:
        objective = partial(distilled_rows, weight=settings.distil)
    source = Questions(
        load_questions(settings.data),
        QuestionLayout(model, max_passages=settings.max_passages),
        batch_size=settings.batch_size,
        text_shares=settings.text_shares,
    )
    run_stage(model, source, settings, settings.out / STAGE, objective=objective)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on questions."""
    run(parse(FinetuneSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
