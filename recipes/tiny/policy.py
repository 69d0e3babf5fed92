"""Stage 3 of the recipe, its last: the expansion policy, on questions of the world."""

from dataclasses import dataclass
from random import Random

import torch

from recipes.tiny.records import draw_records
from recipes.tiny.sources import open_tasks
from recipes.tiny.tasks import Mix, Tasks
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.finetune import STAGE as FINETUNE
from refrag_rag.training.policy import PolicySettings as GeneralSettings
from refrag_rag.training.policy import question_cases, train_policy
from refrag_rag.training.settings import setting
from refrag_rag.training.stage import start_model


@dataclass(frozen=True, kw_only=True)
class PolicySettings(GeneralSettings):
    """Where questions come from."""

    data: str = setting("world", "nothing but the invented world")
    factbook: str | None = setting(None, "file with names of real countries")
    questions: int = setting(1, "questions on one context, which is encoded once", least=1)


def run(settings: PolicySettings) -> None:
    """Train a policy for a model, save it with the model, and measure it."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, FINETUNE)
    tasks = open_tasks(model.tokenizer, Mix(), settings.factbook)
    cases = question_cases(model, settings)
    train_policy(
        model,
        settings,
        lambda rng, count: cases(draw(tasks, rng, count, settings.questions), rng),
    )


def draw(tasks: Tasks, rng: Random, count: int, together: int) -> list[QuestionRecord]:
    """Records of the world, so many on each context."""
    found: list[QuestionRecord] = []
    while len(found) < count:
        found += draw_records(tasks, rng, min(together, count - len(found)))
    return found
