"""From users' files to a folder that training reads, in one call."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar, get_args

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.training.data.documents import prepare_documents
from refrag_rag.training.data.questions import prepare_questions
from refrag_rag.training.data.reading import Located, is_dataset, read_records
from refrag_rag.training.data.records import TextRecord, question_record, text_record
from refrag_rag.training.data.report import Kind, PreparationReport
from refrag_rag.training.data.skipping import OnBad, Skipped, sift

Record = TypeVar("Record")
logger = logging.getLogger(__name__)


def prepare(
    sources: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | None,
    out: str | Path,
    kind: Kind = "text",
    *,
    split: str | None = None,
    name: str | None = None,
    titles: bool = False,
    on_bad: OnBad = "raise",
) -> PreparationReport:
    """Prepare texts or questions for training.

    Parameters
    ----------
    sources
        Files, folders and data sets; see `read_records`.
    tokenizer
        The model's, for texts; questions need none.
    out
        The folder. An error or a kill leaves it as it was.
    kind
        ``text`` gives what `Documents.open` reads, ``questions`` what `load_questions` reads.
    split, name
        Of those sources that are data sets.
    titles
        Put the titles of texts in front of them as first line.
    on_bad
        ``raise``, or ``skip`` to leave out and count records that cannot be used.

    Returns
    -------
    PreparationReport
        The counts, which also lie in the folder.

    Raises
    ------
    InputError
        For a record that cannot be used (file, line and field are named), a source that cannot be
        read, or a folder that cannot be written.
    """
    skipped = Skipped()
    located = _read(sources, split=split, name=name, on_bad=on_bad, skipped=skipped)
    named = [str(source) for source in sources]
    with tqdm(located, desc=f"preparing {kind}", unit=" records", delay=2) as bar:
        if kind == "text":
            if tokenizer is None:
                raise InputError("The tokenizer is None; expected the model's, to prepare text.")
            records = _sifted(bar, text_record, on_bad, skipped)
            texts = map(_with_title, records) if titles else records
            report = prepare_documents(texts, tokenizer, out, sources=named, skipped=skipped)
        elif kind == "questions":
            questions = _sifted(bar, question_record, on_bad, skipped)
            report = prepare_questions(questions, out, sources=named, skipped=skipped)
        else:
            raise InputError(f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}.")
    logger.info("%s: %s; left out: %s", out, dict(report.counts), dict(report.skipped) or "nothing")
    return report


def _read(
    sources: Sequence[str | Path],
    *,
    split: str | None,
    name: str | None,
    on_bad: OnBad,
    skipped: Skipped,
) -> Iterator[Located]:
    """Records of all sources, which are all looked for before the first one is read."""
    if isinstance(sources, str | Path) or not sources:
        raise InputError(f"sources is {sources!r}; expected a list of at least one source.")
    any_dataset = any(is_dataset(source) for source in sources)
    return chain.from_iterable(
        [
            read_records(
                source,
                split=split if is_dataset(source) or not any_dataset else None,
                name=name if is_dataset(source) or not any_dataset else None,
                on_bad=on_bad,
                skipped=skipped,
            )
            for source in sources
        ]
    )


def _sifted(
    located: Iterator[Located],
    make: Callable[[Located], Record],
    on_bad: OnBad,
    skipped: Skipped,
) -> Iterator[Record]:
    return sift(located, make, on_bad=on_bad, skipped=skipped)


def _with_title(record: TextRecord) -> TextRecord:
    return replace(record, text=record.titled(), title=None)
