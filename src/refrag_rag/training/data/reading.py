"""JSON records of files, folders and data sets, each with the place where it stands."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.training.data.hub import read_rows
from refrag_rag.training.data.lines import find_files, read_lines
from refrag_rag.training.data.skipping import BadRecordError, OnBad, Skipped, check_on_bad, sift

HUB = "hf:"


@dataclass(frozen=True, kw_only=True)
class Located:
    """A record and where it stands.

    Attributes
    ----------
    record
        The JSON object, or the row of a data set.
    place
        File and line (from 1), or data set and row (from 0), for messages.
    """

    record: dict[str, Any]
    place: str


def is_dataset(source: str | Path) -> bool:
    """Whether a source is read by the `datasets` library."""
    return isinstance(source, str) and source.startswith(HUB)


def read_records(
    source: str | Path,
    *,
    split: str | None = None,
    name: str | None = None,
    streaming: bool = True,
    on_bad: OnBad = "raise",
    skipped: Skipped | None = None,
) -> Iterator[Located]:
    """Records one by one.

    Parameters
    ----------
    source
        A ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.xz`` file, a folder of such files (read in the
        order of their names, folders in it are not), or ``hf:`` and a name: a hub id, a folder
        saved by the `datasets` library, or a file that it reads.
    split, name, streaming
        Of a data set. The split may be left out if there is only one; `name` is that of the
        configuration.
    on_bad
        ``raise``, or ``skip`` to leave out lines that hold no JSON object.
    skipped
        Counts what was left out.

    Raises
    ------
    InputError
        If the source cannot be read, at once; while reading, for a line that is no JSON object.
    """
    check_on_bad(on_bad)
    if isinstance(source, str) and source.startswith(HUB):
        rows = read_rows(source[len(HUB) :], name=name, split=split, streaming=streaming)
        where = ", ".join(part for part in (source, name, split) if part)
        return (Located(record=row, place=f"{where}, row {number}") for number, row in rows)
    if split is not None or name is not None:
        raise InputError(
            f"split={split!r} and name={name!r} were given for {source}; expected them only for "
            "data sets (hf:NAME). Leave them out."
        )
    files = find_files(Path(source).expanduser())
    return _read_files(files, on_bad=on_bad, skipped=Skipped() if skipped is None else skipped)


def _read_files(files: list[Path], *, on_bad: OnBad, skipped: Skipped) -> Iterator[Located]:
    for file in files:
        yield from sift(read_lines(file), partial(_locate, file), on_bad=on_bad, skipped=skipped)


def _locate(file: Path, line: tuple[int, bytes]) -> Located:
    number, raw = line
    place = f"{file}, line {number}"
    expected = "one JSON object a line, in UTF-8"
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        found = f"byte {raw[error.start]:#04x} at {error.start} of the line is not UTF-8"
        raise BadRecordError.at(place, "line: not UTF-8", found, expected) from error
    except (ValueError, RecursionError) as error:
        found = f"{_start(raw)} is not JSON ({error})"
        raise BadRecordError.at(place, "line: not JSON", found, expected) from error
    if not isinstance(record, dict):
        found = f"{_start(raw)} is {type(record).__name__}, not an object"
        raise BadRecordError.at(place, "line: not an object", found, expected)
    return Located(record=record, place=place)


def _start(raw: bytes) -> str:
    text = raw.decode("utf-8").strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
