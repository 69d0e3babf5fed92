"""Questions with passages: held-out entities of the invented world, or a file."""

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.evaluation.retrieval import Retriever
from refrag_rag.training.tasks import MAX_ANSWER_TOKENS
from refrag_rag.training.world import World

FACTS = 6


@dataclass(frozen=True)
class Question:
    """A question, the answers that count, and the passages that were retrieved for it."""

    text: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    gold_retrieved: bool = True


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
    nearest = Retriever(passages).nearest([q for _, q, _ in pairs], retrieved)
    return [
        Question(question, (answer,), tuple(passages[i] for i in found), gold in found)
        for (gold, question, answer), found in zip(pairs, nearest, strict=True)
    ]


def read_questions(path: str | Path, *, limit: int | None = None) -> list[Question]:
    """Questions of an xz-compressed JSON-lines file with ``question``, ``answers``, ``contexts``.

    Raises
    ------
    InputError
        If a line is not such a record; file and line are named.
    """
    found: list[Question] = []
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(found) == limit:
                break
            found.append(_record(line, f"{path}, line {number}"))
    return found


def _record(line: str, place: str) -> Question:
    try:
        record = json.loads(line)
        passages = [f"{context['title']}\n{context['text']}" for context in record["contexts"]]
        return Question(record["question"], tuple(record["answers"]), tuple(passages))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{place}: {error!r}; expected 'question', 'answers' and 'contexts' with 'title' and "
            "'text'."
        ) from error


def recall(questions: Sequence[Question]) -> float:
    """Share of the questions whose gold passage was retrieved."""
    return sum(question.gold_retrieved for question in questions) / max(1, len(questions))
