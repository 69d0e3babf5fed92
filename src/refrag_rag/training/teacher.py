"""Sequence-level distillation: a decoder answers from full text, and its answers are learnt.

``refrag train answers QUESTIONS --model NAME --out FOLDER``, then finetune on the folder (Kim and
Rush 2016). The teacher may be any model; with the student's own decoder nothing new is learnt but
to say from vectors what it says from text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from refrag_rag.engine import Refrag
from refrag_rag.training.data.folder import PreparationReport
from refrag_rag.training.data.questions import load_questions, prepare_questions
from refrag_rag.training.data.reading import Skipped
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.layout import QuestionLayout
from refrag_rag.training.prompts import PLAIN

TOO_LONG, EMPTY = "longer than the teacher's window", "no answer of the teacher"


def write_answers(
    source: str | Path,
    out: str | Path,
    teacher: Refrag,
    *,
    max_passages: int = 10,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> PreparationReport:
    """Write question records anew, with the teacher's answer in place of their own.

    The teacher reads every chunk as text. Questions that it could not read or did not answer are
    left out and counted.

    Parameters
    ----------
    out
        Folder for `finetune`.
    max_passages
        Most passages of a prompt; gold ones are kept first.

    Raises
    ------
    InputError
        If the source has no question, or none was answered.
    """
    records = load_questions(source, max_passages=max_passages)
    skipped = Skipped()
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    answered = _answered(records, teacher, skipped, max_passages, options)
    return prepare_questions(answered, out, sources=[str(source)], skipped=skipped)


def _answered(
    records: Sequence[QuestionRecord],
    teacher: Refrag,
    skipped: Skipped,
    max_passages: int,
    options: dict[str, int],
) -> Iterator[QuestionRecord]:
    layout = QuestionLayout(teacher.model, max_passages=max_passages)
    size = options["batch_size"]
    for start in tqdm(range(0, len(records), size), desc="answers", unit="batch"):
        readable, prompts = [], []
        for record in records[start : start + size]:
            prompt = layout.prompt(record.passages, record, PLAIN)
            if teacher.compress(prompt, policy="all").positions < teacher.context_window:
                readable.append(record)
                prompts.append(prompt)
            else:
                skipped.add(TOO_LONG, _named(record))
        answers = teacher.generate_batch(prompts, policy="all", **options)
        for record, answer in zip(readable, answers, strict=True):
            if answer.text.strip():
                yield replace(record, answers=(answer.text.strip(),))
            else:
                skipped.add(EMPTY, _named(record))


def _named(record: QuestionRecord) -> str:
    return f"question {record.id or record.question[:60]!r}"
