"""Question records of the invented world: eight passages, one question, one answer."""

from random import Random

from refrag_rag.training.data.records import Passage, QuestionRecord
from refrag_rag.training.levels import LEVELS
from refrag_rag.training.tasks import MAX_ANSWER_TOKENS, Tasks


def draw_record(tasks: Tasks, rng: Random) -> QuestionRecord:
    """One record at the highest level of the curriculum."""
    level = LEVELS[-1]
    while True:
        entities = tasks.world.entities(rng, level.passages, facts=level.facts, alike=0.75)
        entity = rng.choice(entities)
        fact = rng.choice(entity.facts)
        if len(tasks.encode(fact.value)) <= MAX_ANSWER_TOKENS:
            break
    passages = tuple(
        Passage(text=one.passage(rng, by_name=level.by_name), gold=one is entity)
        for one in entities
    )
    return QuestionRecord(
        question=entity.question(fact, rng),
        passages=passages,
        answers=(fact.value,),
        id=entity.name,
    )
