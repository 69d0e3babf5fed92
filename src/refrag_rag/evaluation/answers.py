"""Answers of a long run, written one by one, so that a run that was stopped goes on."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from refrag_rag.errors import InputError


class Place(NamedTuple):
    """Which answer: of a file's question, by an arm, with chunks of k tokens (0: any)."""

    file: str
    question: int
    arm: str
    k: int


@dataclass(frozen=True)
class Row:
    """One answer and what it took.

    Attributes
    ----------
    exact, f1
        Exact match and word-overlap F1 with the expected answers, the best of them.
    positions
        Decoder positions of the prompt.
    ttft_s
        Time to the first token, in seconds; None where several questions were answered at once.
    of
        Names what was asked, and of which encoder.
    """

    file: str
    question: int
    arm: str
    k: int
    text: str
    exact: bool
    f1: float
    positions: int
    ttft_s: float | None
    of: str

    @property
    def place(self) -> Place:
        """Which answer it is."""
        return Place(self.file, self.question, self.arm, self.k)


class AnswerFile:
    """JSON lines: what was run, then the answers.

    Parameters
    ----------
    path
        Read if it is there, and appended to.
    about
        What must be the same when a run goes on.

    Raises
    ------
    InputError
        If the file is of another run, or has a line that cannot be read.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[Place, Row] = {}
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
            if header:
                self._check(header, about)
                self.rows = {row.place: row for row in self._read(lines)}
            self._write(about)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be used ({error}); expected a file of answers that can be written. "
                "Choose another folder."
            ) from error

    def find(self, place: Place, of: str) -> Row | None:
        """The answer at a place, if it is there.

        Raises
        ------
        InputError
            If something else was asked there.
        """
        row = self.rows.get(place)
        if row is not None and row.of != of:
            raise InputError(
                f"{self.path} answers another question {place.question} of {place.file}, or of "
                "another encoder. Choose another folder."
            )
        return row

    def add(self, row: Row) -> None:
        """Keep an answer."""
        self.rows[row.place] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def _check(self, header: str, about: dict[str, Any]) -> None:
        try:
            before = json.loads(header)
        except ValueError:
            before = None
        if before != about:
            raise InputError(
                f"{self.path} holds answers of another run ({before}); this one is {about}. "
                "Choose another folder."
            )

    def _read(self, lines: list[str]) -> Iterator[Row]:
        for number, line in enumerate(lines, 2):
            try:
                row = Row(**json.loads(line))
                if not isinstance(row.exact, bool):
                    raise TypeError(f"exact = {row.exact!r}")
                yield row
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{self.path}, line {number}: {error!r}; expected an answer of an earlier "
                    "run. Remove the line."
                ) from error

    def _write(self, about: dict[str, Any]) -> None:
        """All of it anew, without what a stopped run has left of a line; beside, then renamed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        lines = [about, *(asdict(row) for row in self.rows.values())]
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(part, self.path)
