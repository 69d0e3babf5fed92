"""Questions with passages: held-out entities of the invented world, or a file."""

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """A question, the answers that count, and the passages that were retrieved for it.

    Attributes
    ----------
    best
        Places of the passages, best first; None if they stand in that order.
    """

    text: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    gold_retrieved: bool = True
    best: tuple[int, ...] | None = None

    @property
    def ranking(self) -> tuple[int, ...]:
        """Places of the passages, best first."""
        return tuple(range(len(self.passages))) if self.best is None else self.best


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
    """Questions of a JSON-lines file, plain or compressed with xz.

    A line is an object with ``question``, ``answers`` (texts; one of them is enough) and
    ``contexts``, a list of objects with ``text`` and, if there is one, ``title``. If all contexts
    of a question have a ``score``, those with the highest are the best; otherwise the first.

    Raises
    ------
    InputError
        If the file or a line cannot be read; file and line are named.
    """
    file = Path(path)
    found: list[Question] = []
    number = 0
    try:
        opened = lzma.open if file.suffix == ".xz" else open
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if limit is not None and len(found) == limit:
                    break
                if line.strip():
                    found.append(_record(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read behind line {number} ({error}); expected JSON lines in UTF-8, "
            "plain or compressed with xz."
        ) from error
    if not found:
        raise InputError(f"{path} holds no question; expected one a line.")
    return found


def rank_by_retriever(questions: Sequence[Question]) -> list[Question]:
    """The same questions with their passages ranked by the demo's embedding model."""
    passages = list(dict.fromkeys(p for question in questions for p in question.passages))
    similar = Retriever(passages).similarities([question.text for question in questions])
    row = {passage: place for place, passage in enumerate(passages)}
    ranked = []
    for question, values in zip(questions, similar, strict=True):
        places = [row[passage] for passage in question.passages]
        best = sorted(range(len(places)), key=lambda n: -values[places[n]])
        ranked.append(replace(question, best=tuple(best)))
    return ranked


def _record(line: str, place: str) -> Question:
    try:
        record = json.loads(line)
        contexts, answers = record["contexts"], record["answers"]
        passages = ["\n".join(filter(None, (c.get("title"), c["text"]))) for c in contexts]
        texts = [record["question"], *answers, *passages]
        if isinstance(answers, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        scores = [context.get("score") for context in contexts]
        best = None
        if scores and all(isinstance(score, int | float) for score in scores):
            best = tuple(sorted(range(len(scores)), key=lambda n: -scores[n]))
        return Question(record["question"], tuple(answers), tuple(passages), best=best)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{place}: {error!r}; expected 'question', 'answers' (a list of texts) and 'contexts' "
            "(a list of objects with 'text', and 'title' if there is one)."
        ) from error


def recall(questions: Sequence[Question]) -> float:
    """Share of the questions whose gold passage was retrieved."""
    return sum(question.gold_retrieved for question in questions) / max(1, len(questions))
