"""The fields of a record: read with a check of type and content."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from refrag_rag.training.data.skipping import BadRecordError

TEXT = "a text that is not empty"


@dataclass(frozen=True, kw_only=True)
class Fields:
    """An object with what its fields are called in messages. A field that is null is missing.

    Attributes
    ----------
    values
        The fields.
    place
        Where the record stands.
    prefix
        In front of names, such as ``contexts[2].``.
    """

    values: Mapping[str, Any]
    place: str
    prefix: str = ""

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """A text that is not empty.

        Raises
        ------
        BadRecordError
            If the field is missing, no text, empty, or cannot be written as UTF-8.
        """
        if not self.has(name):
            raise self._missing(name, TEXT)
        return checked_text(self.values[name], f"{self.prefix}{name}", self.place)

    def optional_text(self, name: str) -> str | None:
        """A text, or None if the field is missing or empty.

        Raises
        ------
        BadRecordError
            If the field is no text.
        """
        if not self.has(name) or self.values[name] == "":
            return None
        return self.text(name)

    def optional_flag(self, name: str) -> bool | None:
        """True or false, or None if the field is missing.

        Raises
        ------
        BadRecordError
            If it is something else.
        """
        if not self.has(name):
            return None
        value = self.values[name]
        if not isinstance(value, bool):
            raise bad(self.place, f"{self.prefix}{name}", value, "true or false")
        return value

    def optional_id(self) -> str | None:
        """The field ``id``, a text or whole number, as text; None if it is missing or empty.

        Raises
        ------
        BadRecordError
            If it is something else.
        """
        value = self.values.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.optional_text("id")

    def items(self, name: str, expected: str) -> Iterator[tuple[str, Any]]:
        """The elements of a list that is not empty, each with its name.

        Raises
        ------
        BadRecordError
            If the field is missing, no list, or empty.
        """
        if not self.has(name):
            raise self._missing(name, expected)
        value = self.values[name]
        label = f"{self.prefix}{name}"
        if not isinstance(value, list):
            raise bad(self.place, label, value, expected)
        if not value:
            raise bad(self.place, label, value, expected, problem="empty")
        for number, item in enumerate(value):
            yield f"{label}[{number}]", item

    def _missing(self, name: str, expected: str) -> BadRecordError:
        there = ", ".join(repr(key) for key in self.values if self.has(key)) or "none"
        label = f"{self.prefix}{name}"
        found = f"field '{label}' is missing (there: {there})"
        return BadRecordError.at(self.place, f"{_pattern(label)}: missing", found, expected)


def checked_text(value: Any, label: str, place: str) -> str:
    """A value that must be a text.

    Raises
    ------
    BadRecordError
        If it is no text, empty, or cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise bad(place, label, value, TEXT)
    if not value.strip():
        raise bad(place, label, value, TEXT, problem="empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise bad(place, label, value, "whole characters", problem="not UTF-8") from error
    return value


def bad(
    place: str, label: str, value: Any, expected: str, *, problem: str = "wrong type"
) -> BadRecordError:
    """The error for a field that holds something else than it should."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    found = f"field '{label}' is {shown} ({type(value).__name__})"
    return BadRecordError.at(place, f"{_pattern(label)}: {problem}", found, expected)


def _pattern(label: str) -> str:
    """The field's name without numbers of list elements."""
    return re.sub(r"\[\d+\]", "[]", label)
