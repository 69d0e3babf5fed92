"""Question records of the invented world: eight passages, one question, one answer."""

from random import Random

from recipes.tiny.levels import LEVELS
from recipes.tiny.tasks import MAX_ANSWER_TOKENS, Tasks
from refrag_rag.training.data.records import Passage, QuestionRecord


def draw_records(tasks: Tasks, rng: Random, count: int) -> list[QuestionRecord]:
    """Records at the highest level, that ask for different facts of the same passages.

    At most `count`, and at least one.
    """
    level = LEVELS[-1]
    found: list[QuestionRecord] = []
    while not found:
        entities = tasks.world.entities(rng, level.passages, facts=level.facts, alike=0.75)
        passages = [one.passage(rng, by_name=level.by_name) for one in entities]
        facts = [(place, fact) for place, one in enumerate(entities) for fact in one.facts]
        short = [one for one in facts if len(tasks.encode(one[1].value)) <= MAX_ANSWER_TOKENS]
        for gold, fact in rng.sample(short, min(count, len(short))):
            found.append(
                QuestionRecord(
                    question=entities[gold].question(fact, rng),
                    passages=tuple(
                        Passage(text=text, gold=place == gold)
                        for place, text in enumerate(passages)
                    ),
                    answers=(fact.value,),
                    id=entities[gold].name,
                )
            )
    return found
