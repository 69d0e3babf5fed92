"""Answers of a long run, written one by one, so that a run that was stopped goes on."""

import json
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
        Time to the first token, in seconds.
    """

    file: str
    question: int
    arm: str
    k: int
    text: str
    exact: bool
    f1: float
    positions: int
    ttft_s: float

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
        if path.exists():
            self._check(about)
            self.rows = {row.place: row for row in self._read()}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about) + "\n", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Keep an answer."""
        self.rows[row.place] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def _check(self, about: dict[str, Any]) -> None:
        with self.path.open(encoding="utf-8") as file:
            try:
                before = json.loads(file.readline())
            except ValueError:
                before = None
        if before != about:
            raise InputError(
                f"{self.path} holds answers of another run ({before}); this one is {about}. "
                "Choose another folder."
            )

    def _read(self) -> Iterator[Row]:
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a run was stopped in the middle of a line
            self.path.write_text(whole, encoding="utf-8")
        for number, line in enumerate(whole.splitlines()[1:], 2):
            try:
                yield Row(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{self.path}, line {number}: {error!r}; expected an answer of an earlier "
                    "run. Remove the line."
                ) from error
