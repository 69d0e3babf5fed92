"""From users' files to a folder that training reads, in one call."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.training.data.documents import prepare_documents
from refrag_rag.training.data.folder import Kind, PreparationReport
from refrag_rag.training.data.made_questions import Making, made_questions
from refrag_rag.training.data.questions import prepare_questions
from refrag_rag.training.data.reading import Skipped, read_records
from refrag_rag.training.data.records import document_record, question_record, text_record

logger = logging.getLogger(__name__)


def prepare(
    sources: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | None,
    out: str | Path,
    kind: Kind = "text",
    *,
    split: str | None = None,
    name: str | None = None,
    skip_bad: bool = False,
    making: Making | None = None,
) -> PreparationReport:
    """Prepare texts or questions for training.

    Parameters
    ----------
    sources, split, name
        Files, folders and data sets; see `read_records`.
    tokenizer
        The model's, for texts; questions need none.
    out
        The folder. An error or a kill leaves it as it was.
    kind
        ``text`` gives what `Documents.open` reads, ``questions`` what `load_questions` reads.
    skip_bad
        Leave out and count records that cannot be used.
    making
        How questions are made from texts; None if the records are questions.

    Raises
    ------
    InputError
        For a record that cannot be used (file, line and field are named), a source that cannot be
        read, or a folder that cannot be written.
    """
    skipped, named = Skipped(), [str(source) for source in sources]
    left_out = skipped if skip_bad else None
    if kind == "text":
        if tokenizer is None:
            raise InputError("The tokenizer is None; expected the model's, to prepare text.")
        texts = read_records(sources, text_record, split=split, name=name, skipped=left_out)
        texts = tqdm(texts, desc="preparing text", unit=" records", delay=2)
        report = prepare_documents(texts, tokenizer, out, sources=named, skipped=skipped)
    elif kind == "questions" and making is not None:
        documents = read_records(sources, document_record, split=split, name=name, skipped=left_out)
        documents = tqdm(documents, desc="making questions", unit=" documents", delay=2)
        made = made_questions(documents, making, skipped)
        report = prepare_questions(made, out, sources=named, skipped=skipped)
    elif kind == "questions":
        records = read_records(sources, question_record, split=split, name=name, skipped=left_out)
        report = prepare_questions(records, out, sources=named, skipped=skipped)
    else:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}.")
    logger.info("%s: %s; left out: %s", out, report.counts, report.skipped or "nothing")
    return report
