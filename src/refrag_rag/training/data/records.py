"""Texts and questions with passages, as training takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refrag_rag.training.data.fields import Fields, bad, checked_text
from refrag_rag.training.data.reading import Located

ROLES = {"user": "user", "assistant": "assistant", "agent": "assistant", "system": "system"}
PASSAGES = "a list of passages, each a text or an object with 'text'"
ANSWERS = "a list of texts with at least one (for a question without one: what shall be said)"
HISTORY = "a list of turns with 'role' and 'text'"


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """A document.

    Attributes
    ----------
    text
        Not empty.
    title
        Not part of the text; `titled` puts it in front.
    id
        A name, if it has one.
    """

    text: str
    title: str | None = None
    id: str | None = None

    def titled(self) -> str:
        """The text with the title as its first line."""
        return titled(self.text, self.title)


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
    """

    text: str
    title: str | None = None
    gold: bool | None = None

    def titled(self) -> str:
        """The text with the title as its first line."""
        return titled(self.text, self.title)


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
        record: dict[str, Any] = {
            "id": self.id,
            "question": self.question,
            "contexts": [_present(vars(passage)) for passage in self.passages],
            "answers": list(self.answers),
            "history": [vars(turn) for turn in self.history] or None,
        }
        return _present(record)


def titled(text: str, title: str | None) -> str:
    """A text with its title, if it has one, as the first line."""
    return f"{title}\n{text}" if title else text


def text_record(located: Located) -> TextRecord:
    """Read ``text``, and ``title`` and ``id`` if they are there.

    Raises
    ------
    BadRecordError
        If a field is missing, of another type, or empty.
    """
    fields = Fields(values=located.record, place=located.place)
    return TextRecord(
        text=fields.text("text"), title=fields.optional_text("title"), id=fields.optional_id()
    )


def question_record(located: Located) -> QuestionRecord:
    """Read a question.

    ``question``; ``contexts`` or ``passages`` (texts, or objects with ``text`` and perhaps
    ``title`` and ``gold``); ``answers`` (a list) or ``answer`` (a text); perhaps ``id`` and
    ``history`` (objects with ``role`` and ``text`` or ``content``). The first name counts where
    both are there.

    Raises
    ------
    BadRecordError
        If a field is missing, of another type, or empty.
    """
    fields = Fields(values=located.record, place=located.place)
    return QuestionRecord(
        question=fields.text("question"),
        passages=tuple(_passages(fields)),
        answers=tuple(_answers(fields)),
        id=fields.optional_id(),
        history=tuple(_history(fields)),
    )


def _passages(fields: Fields) -> Iterator[Passage]:
    name = "contexts" if fields.has("contexts") or not fields.has("passages") else "passages"
    for label, item in fields.items(name, PASSAGES):
        if isinstance(item, dict):
            inner = Fields(values=item, place=fields.place, prefix=f"{label}.")
            yield Passage(
                text=inner.text("text"),
                title=inner.optional_text("title"),
                gold=inner.optional_flag("gold"),
            )
        else:
            yield Passage(text=checked_text(item, label, fields.place))


def _answers(fields: Fields) -> Iterator[str]:
    if fields.has("answer") and not fields.has("answers"):
        yield fields.text("answer")
        return
    for label, item in fields.items("answers", ANSWERS):
        yield checked_text(item, label, fields.place)


def _history(fields: Fields) -> Iterator[Turn]:
    if not fields.has("history") or fields.values["history"] == []:
        return
    for label, item in fields.items("history", HISTORY):
        if not isinstance(item, dict):
            raise bad(fields.place, label, item, "an object with 'role' and 'text'")
        inner = Fields(values=item, place=fields.place, prefix=f"{label}.")
        role = inner.text("role")
        if role not in ROLES:
            expected = f"one of {', '.join(ROLES)}"
            raise bad(fields.place, f"{label}.role", role, expected, problem="unknown")
        yield Turn(role=ROLES[role], text=inner.text("text" if inner.has("text") else "content"))


def _present(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}
