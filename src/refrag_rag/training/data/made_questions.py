"""Questions made from documents, with hard distractors: other passages of the same document."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from refrag_rag.errors import InputError
from refrag_rag.training.data.cloze import cloze
from refrag_rag.training.data.passages import passages, sentences
from refrag_rag.training.data.reading import Skipped
from refrag_rag.training.data.records import Document, Passage, QuestionRecord

UNASKED = "text: no question"


@dataclass(frozen=True, kw_only=True)
class Making:
    """How questions are made.

    Attributes
    ----------
    distractors
        Most other passages of the document beside the gold one.
    per_passage
        Most questions of a passage.
    limit
        Most questions in all; None for no limit.
    seed
        Same documents and seed, same questions.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    distractors: int = 7
    per_passage: int = 2
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"distractors": 0, "per_passage": 1, "limit": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"{name} is {value}; expected at least {low}.")


def made_questions(
    documents: Iterable[Document], making: Making, skipped: Skipped
) -> Iterator[QuestionRecord]:
    """Questions of all documents, one document in memory; those without one are counted."""

    def each() -> Iterator[QuestionRecord]:
        for number, document in enumerate(documents):
            rng, count = Random(f"{making.seed}/{number}"), 0
            for record in _of_document(document, number, making, rng):
                count += 1
                yield record
            if not count:
                skipped.add(UNASKED, f"document {document.id or number}: {UNASKED}")

    return islice(each(), making.limit)


def _of_document(
    document: Document, number: int, making: Making, rng: Random
) -> Iterator[QuestionRecord]:
    texts = list(dict.fromkeys(passages(document.text, rng)))
    for place, text in enumerate(texts):
        inside = sentences(text)
        rng.shuffle(inside)
        made = ((one, cloze(one, document.title, rng)) for one in inside)
        for count, (sentence, asked) in enumerate(
            islice((pair for pair in made if pair[1]), making.per_passage)
        ):
            assert asked is not None
            chosen = _others(texts, place, sentence, making.distractors, rng)
            chosen.insert(rng.randint(0, len(chosen)), place)
            yield QuestionRecord(
                question=asked.question,
                passages=tuple(
                    Passage(text=texts[n], title=document.title, gold=n == place) for n in chosen
                ),
                answers=(asked.answer,),
                id=f"{document.id or number}-{place}-{count}",
            )


def _others(texts: list[str], place: int, sentence: str, most: int, rng: Random) -> list[int]:
    """Places of other passages; none holds the sentence."""
    drawn = rng.sample(range(len(texts)), min(len(texts), most + 1))
    return [n for n in drawn if n != place and sentence not in texts[n]][:most]
