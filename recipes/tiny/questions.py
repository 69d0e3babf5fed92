"""Held-out questions of the invented world: what the model is measured on."""

from random import Random

from transformers import PreTrainedTokenizerBase

from recipes.tiny.tasks import MAX_ANSWER_TOKENS
from recipes.tiny.world import World
from refrag_rag.evaluation.questions import Question
from refrag_rag.evaluation.retrieval import Retriever

FACTS = 6


def held_out_questions(
    tokenizer: PreTrainedTokenizerBase, *, count: int, retrieved: int = 8, seed: int = 2026
) -> list[Question]:
    """Questions on entities with names that no training world contains.

    Every entity has one passage. All passages are indexed together, and each question gets the
    `retrieved` nearest ones of a real embedding model.
    """
    rng = Random(seed)
    world = World(held_out=True)
    entities: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    while sum(len(asked) for _, asked in entities.values()) < count:
        entity = world.entity(rng, facts=FACTS)
        asked = [
            (entity.question(fact, rng), fact.value)
            for fact in entity.facts
            if len(tokenizer(fact.value, add_special_tokens=False).input_ids) <= MAX_ANSWER_TOKENS
        ]
        entities.setdefault(entity.name, (entity.passage(rng), asked))
    passages = [passage for passage, _ in entities.values()]
    pairs = [(p, q, a) for p, (_, asked) in enumerate(entities.values()) for q, a in asked]
    nearest = Retriever(passages).nearest([question for _, question, _ in pairs], retrieved)
    return [
        Question(question, (answer,), tuple(passages[i] for i in found), gold in found)
        for (gold, question, answer), found in zip(pairs, nearest, strict=True)
    ]
