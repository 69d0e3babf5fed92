"""Questions with passages: read, checked and counted."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from refrag_rag.errors import InputError
from refrag_rag.training.data.reading import read_records
from refrag_rag.training.data.records import Passage, QuestionRecord, question_record
from refrag_rag.training.data.report import PreparationReport
from refrag_rag.training.data.skipping import OnBad, Skipped, sift
from refrag_rag.training.data.writing import replaced_folder

QUESTIONS = "questions.jsonl"


def load_questions(
    source: str | Path,
    *,
    split: str | None = None,
    name: str | None = None,
    max_passages: int | None = None,
    on_bad: OnBad = "raise",
    skipped: Skipped | None = None,
) -> list[QuestionRecord]:
    """Read all questions of a source, or of a folder that `prepare_questions` has written.

    Parameters
    ----------
    source, split, name
        See `read_records`.
    max_passages
        Keep as many passages of a question at most, gold ones before others, in their order.
    on_bad
        ``raise``, or ``skip`` to leave out records that cannot be used.
    skipped
        Counts what was left out.

    Raises
    ------
    InputError
        For a record that cannot be used; file, line and field are named. If there is no question.
    """
    if max_passages is not None and max_passages < 1:
        raise InputError(f"max_passages is {max_passages}; expected None or at least 1.")
    skipped = Skipped() if skipped is None else skipped
    located = read_records(source, split=split, name=name, on_bad=on_bad, skipped=skipped)
    records = sift(located, question_record, on_bad=on_bad, skipped=skipped)
    found = [_shortened(record, max_passages) for record in records]
    if not found:
        raise _nothing(skipped)
    return found


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
    records
        The questions; one at a time is in memory.
    folder
        A new folder, or one of prepared data, which is replaced at the end.
    sources
        Where the questions come from, for the report.
    skipped
        Counts of records that were left out before, for the report.

    Raises
    ------
    InputError
        If the folder cannot be written, holds other files, or there is no question.
    """
    skipped = Skipped() if skipped is None else skipped
    counts = dict.fromkeys(("questions", "passages", "answers", "with_gold", "characters"), 0)
    with replaced_folder(Path(folder), (QUESTIONS,)) as part:
        with (part / QUESTIONS).open("w", encoding="utf-8", newline="\n") as file:
            for record in _counted(records, counts):
                file.write(json.dumps(record.to_record(), ensure_ascii=False) + "\n")
        if not counts["questions"]:
            raise _nothing(skipped)
        report = PreparationReport(
            kind="questions", sources=tuple(sources), counts=counts, skipped=skipped.reasons
        )
        report.write(part)
    return report


def keep_passages(passages: Sequence[Passage], most: int) -> tuple[Passage, ...]:
    """At most `most` passages, gold ones before others, in their order."""
    first = sorted(range(len(passages)), key=lambda place: passages[place].gold is not True)
    return tuple(passages[place] for place in sorted(first[:most]))


def _shortened(record: QuestionRecord, most: int | None) -> QuestionRecord:
    if most is None or len(record.passages) <= most:
        return record
    kept = keep_passages(record.passages, most)
    return QuestionRecord(**{**vars(record), "passages": kept})


def _counted(records: Iterable[QuestionRecord], counts: dict[str, int]) -> Iterator[QuestionRecord]:
    for record in records:
        yield record
        counts["questions"] += 1
        counts["passages"] += len(record.passages)
        counts["answers"] += len(record.answers)
        counts["with_gold"] += any(passage.gold for passage in record.passages)
        counts["characters"] += sum(len(passage.text) for passage in record.passages)


def _nothing(skipped: Skipped) -> InputError:
    return InputError(
        f"There is no question (left out: {skipped.reasons or 'nothing'}); expected at least one. "
        "Check the source."
    )
