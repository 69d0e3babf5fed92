"""Questions with passages: read, shortened around the gold passages, and written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refrag_rag.errors import InputError
from refrag_rag.training.data.folder import PreparationReport, replaced_folder
from refrag_rag.training.data.reading import Skipped, read_records
from refrag_rag.training.data.records import Passage, QuestionRecord, question_record

QUESTIONS = "questions.jsonl"


def load_questions(source: str | Path, *, max_passages: int | None = None) -> list[QuestionRecord]:
    """Read all questions of a source, or of a folder that `prepare_questions` has written.

    Parameters
    ----------
    source
        See `read_records`.
    max_passages
        Keep as many passages of a question at most, gold ones before others, in their order.

    Raises
    ------
    InputError
        For a record that cannot be used; file, line and field are named. If there is no question.
    """
    if max_passages is not None and max_passages < 1:
        raise InputError(f"max_passages is {max_passages}; expected None or at least 1.")
    found = list(read_records([source], question_record))
    if not found:
        raise _nothing({})
    if max_passages is None:
        return found
    return [replace(one, passages=keep_passages(one.passages, max_passages)) for one in found]


def prepare_questions(
    records: Iterable[QuestionRecord],
    folder: str | Path,
    *,
    sources: Sequence[str] = (),
    skipped: Skipped | None = None,
) -> PreparationReport:
    """Write questions in their normal form into a folder, which is complete or not there.

    ``questions.jsonl`` holds one question a line, ``report.json`` the counts.

    Parameters
    ----------
    folder
        A new folder, or one of prepared data, which is replaced at the end.
    sources, skipped
        For the report: where the questions come from, and counts of what was left out.

    Raises
    ------
    InputError
        If the folder cannot be written, holds other files, or there is no question.
    """
    skipped = Skipped() if skipped is None else skipped
    counts = dict.fromkeys(("questions", "passages", "answers", "with_gold", "characters"), 0)
    with replaced_folder(Path(folder), QUESTIONS) as part:
        with (part / QUESTIONS).open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record.to_record(), ensure_ascii=False) + "\n")
                counts["questions"] += 1
                counts["passages"] += len(record.passages)
                counts["answers"] += len(record.answers)
                counts["with_gold"] += any(passage.gold for passage in record.passages)
                counts["characters"] += sum(len(passage.text) for passage in record.passages)
        if not counts["questions"]:
            raise _nothing(skipped)
        report = PreparationReport(
            kind="questions",
            sources=list(sources),
            counts=counts,
            skipped=dict(sorted(skipped.items())),
        )
        report.write(part)
    return report


def keep_passages(passages: Sequence[Passage], most: int) -> tuple[Passage, ...]:
    """At most `most` passages, gold ones before others, in their order."""
    first = sorted(range(len(passages)), key=lambda place: passages[place].gold is not True)
    return tuple(passages[place] for place in sorted(first[:most]))


def _nothing(skipped: Mapping[str, int]) -> InputError:
    return InputError(
        f"There is no question (left out: {dict(skipped) or 'nothing'}); expected at least one. "
        "Check the source."
    )
