"""Passages that exist, as garbage collection needs them: texts in, keys out."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from refrag_rag.errors import InputError
from refrag_rag.spans import neutralise
from refrag_rag.store.entry import passage_key

FIELDS = ("text", "page_content")


def passage_keys(texts: Iterable[str]) -> set[str]:
    """Keys of passages by their text, as it would stand in a span."""
    return {passage_key(neutralise(text)) for text in texts if text.strip()}


def read_texts(path: str | Path) -> Iterator[str]:
    """Texts of a JSON-lines file, each a string or an object with ``text`` or ``page_content``.

    Raises
    ------
    InputError
        If the file cannot be read or a line is something else; file and line are named.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected JSON lines.") from error


def _text(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: {error}; expected JSON.") from error
    if isinstance(record, dict):
        record = next((record[name] for name in FIELDS if name in record), None)
    if not isinstance(record, str):
        raise InputError(f"{place}: {line[:80]!r}; expected a string, or one under {FIELDS}.")
    return record
