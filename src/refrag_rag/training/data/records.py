"""Questions with passages, as training takes them, and the checks of a record's fields."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from refrag_rag.errors import InputError

ROLES = {"user": "user", "assistant": "assistant", "agent": "assistant", "system": "system"}
TEXT = "a text that is not empty"
PASSAGES = "a list of passages, each a text or an object with 'text'"
ANSWERS = "a list of texts with at least one (for a question without one: what shall be said)"
HISTORY = "a list of turns, each an object with 'role' and 'text'"


class BadRecordError(InputError):
    """A record that cannot be used; `reason`, such as ``text: empty``, is what it counts as."""

    def __init__(self, message: str, reason: str = "bad record") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A passage of a question.

    Attributes
    ----------
    text
        Not empty.
    title
        Not part of the text; `titled` puts it in front.
    gold
        Whether the answer rests on it; None if nobody said.
    score
        The retriever's, higher is better; None if nobody said.
    """

    text: str
    title: str | None = None
    gold: bool | None = None
    score: float | None = None

    def titled(self) -> str:
        """The text with the title, if it has one, as its first line."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An earlier message of a conversation; `role` is user, assistant or system."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class QuestionRecord:
    """A question, its passages and the answers that count.

    Attributes
    ----------
    question
        Not empty.
    passages
        At least one, in the order of the file.
    answers
        At least one; the first is what training teaches, all count in an evaluation.
    id
        A name, if it has one.
    history
        Earlier turns, the oldest first.
    """

    question: str
    passages: tuple[Passage, ...]
    answers: tuple[str, ...]
    id: str | None = None
    history: tuple[Turn, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The record in its normal form, which `question_record` reads; unknown fields are out."""
        return _present(
            {
                "id": self.id,
                "question": self.question,
                "contexts": [_present(vars(passage)) for passage in self.passages],
                "answers": list(self.answers),
                "history": [vars(turn) for turn in self.history] or None,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text, with a title and a name if it has them."""

    text: str
    title: str | None = None
    id: str | None = None


def document_record(record: Mapping[str, Any]) -> Document:
    """Read ``text``, and perhaps ``title`` and ``id``.

    Raises
    ------
    BadRecordError
        If the text is missing, or a field is of another type.
    """
    return Document(
        text=text_record(record),
        title=_optional_text(record.get("title"), "title"),
        id=_id(record.get("id")),
    )


def text_record(record: Mapping[str, Any]) -> str:
    """Read ``text``.

    Raises
    ------
    BadRecordError
        If it is missing, of another type, or empty.
    """
    return _text(record.get("text"), "text")


def question_record(record: Mapping[str, Any]) -> QuestionRecord:
    """Read a question.

    ``question``; ``contexts`` or ``passages`` (texts, or objects with ``text`` and perhaps
    ``title``, ``gold`` and ``score``); ``answers`` (a list) or ``answer`` (a text); perhaps ``id``
    and ``history`` (objects with ``role`` and ``text`` or ``content``). The first name counts
    where both are there; a field that is null is missing.

    Raises
    ------
    BadRecordError
        If a field is missing, of another type, or empty.
    """
    contexts = _name(record, "contexts", "passages")
    return QuestionRecord(
        question=_text(record.get("question"), "question"),
        passages=tuple(_passage(item, at) for at, item in _items(record, contexts, PASSAGES)),
        answers=tuple(_answers(record)),
        id=_id(record.get("id")),
        history=tuple(_turn(item, at) for at, item in _history(record)),
    )


def _answers(record: Mapping[str, Any]) -> list[str]:
    if _name(record, "answers", "answer") == "answer":
        return [_text(record["answer"], "answer")]
    return [_text(item, field) for field, item in _items(record, "answers", ANSWERS)]


def _passage(item: Any, field: str) -> Passage:
    if not isinstance(item, dict):
        return Passage(text=_text(item, field))
    gold = item.get("gold")
    if not isinstance(gold, bool | None):
        raise _bad(f"{field}.gold", gold, "true or false")
    score = item.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise _bad(f"{field}.score", score, "a number")
    return Passage(
        text=_text(item.get("text"), f"{field}.text"),
        title=_optional_text(item.get("title"), f"{field}.title"),
        gold=gold,
        score=score,
    )


def _history(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if record.get("history") in (None, []):
        return iter(())
    return _items(record, "history", HISTORY)


def _turn(item: Any, field: str) -> Turn:
    if not isinstance(item, dict):
        raise _bad(field, item, "an object with 'role' and 'text'")
    role, name = _text(item.get("role"), f"{field}.role"), _name(item, "text", "content")
    if role not in ROLES:
        raise _bad(f"{field}.role", role, f"one of {', '.join(ROLES)}", "unknown")
    return Turn(role=ROLES[role], text=_text(item.get(name), f"{field}.{name}"))


def _name(record: Mapping[str, Any], first: str, second: str) -> str:
    """Which of two names of one field counts."""
    return second if record.get(first) is None and record.get(second) is not None else first


def _id(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else _optional_text(value, "id")


def _optional_text(value: Any, field: str) -> str | None:
    return None if value is None or value == "" else _text(value, field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(field, value, TEXT)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise _bad(field, value, "whole characters", "not UTF-8") from error
    return value


def _items(record: Mapping[str, Any], field: str, expected: str) -> Iterator[tuple[str, Any]]:
    """The elements of a list that is not empty, each with its name."""
    values = record.get(field)
    if not isinstance(values, list) or not values:
        raise _bad(field, values, expected)
    for number, item in enumerate(values):
        yield f"{field}[{number}]", item


def _bad(field: str, value: Any, expected: str, problem: str = "") -> BadRecordError:
    """The error for a field that is missing, or holds something else than it should."""
    if value is None:
        problem, found = "missing", "missing"
    else:
        empty = value == [] or (isinstance(value, str) and not value.strip())
        problem = problem or ("empty" if empty else "wrong type")
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        found = f"{shown} ({type(value).__name__})"
    pattern = re.sub(r"\[\d+\]", "[]", field)
    message = f"field '{field}' is {found}; expected {expected}"
    return BadRecordError(message, f"{pattern}: {problem}")


def _present(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}
