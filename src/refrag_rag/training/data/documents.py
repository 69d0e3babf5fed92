"""Texts as token files: prepared once, then read at any place through a memory map."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.text.tokenization import PlainTokenizer, backend, description
from refrag_rag.training.data.records import TextRecord
from refrag_rag.training.data.report import PreparationReport
from refrag_rag.training.data.runs import Ids, Runs, Tokens, check_length
from refrag_rag.training.data.skipping import Skipped
from refrag_rag.training.data.writing import replaced_folder, streamed_array

TOKENS, OFFSETS = "tokens.npy", "offsets.npy"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that makes a tokenizer, in hexadecimal."""
    return hashlib.sha256(description(tokenizer).encode()).hexdigest()


def is_documents(folder: str | Path) -> bool:
    """Whether a folder holds prepared text."""
    return (Path(folder).expanduser() / TOKENS).is_file()


def prepare_documents(
    records: Iterable[TextRecord],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    sources: Sequence[str] = (),
    skipped: Skipped | None = None,
) -> PreparationReport:
    """Tokenise documents into a folder, which is complete or not there.

    ``tokens.npy`` holds all tokens (uint16 where the vocabulary allows, else uint32),
    ``offsets.npy`` (documents + 1,) int64 where each document begins and the last one ends,
    ``report.json`` the counts. One document at a time is in memory. Text is tokenised without
    control tokens, whatever it says.

    Parameters
    ----------
    records
        The documents; titles are left out unless the caller has put them into the text.
    tokenizer
        The model's.
    folder
        A new folder, or one of prepared data, which is replaced at the end.
    sources
        Where the documents come from, for the report.
    skipped
        Counts of records that were left out before, for the report. Texts that give no token are
        counted there too.

    Raises
    ------
    InputError
        If the folder cannot be written, holds other files, or there is no document.
    """
    skipped = Skipped() if skipped is None else skipped
    vocabulary = _vocabulary(tokenizer)
    with replaced_folder(Path(folder), (TOKENS, OFFSETS)) as part:
        with (
            streamed_array(part / TOKENS, "<u2" if vocabulary <= 1 << 16 else "<u4") as tokens,
            streamed_array(part / OFFSETS, "<i8") as offsets,
        ):
            counts = _tokenise(records, PlainTokenizer(tokenizer), tokens, offsets, skipped)
        report = PreparationReport(
            kind="text",
            sources=tuple(sources),
            counts=counts,
            skipped=skipped.reasons,
            tokenizer={"sha256": tokenizer_fingerprint(tokenizer), "vocabulary": vocabulary},
        )
        report.write(part)
    return report


class Documents:
    """Tokens of many documents. Everything is read at the place asked for, nothing in between.

    Parameters
    ----------
    tokens
        *Shape:* (n,), unsigned; all documents one behind the other.
    offsets
        *Shape:* (documents + 1,), int64; where each begins and the last one ends.
    report
        Of the preparation.
    """

    def __init__(self, tokens: Tokens, offsets: Ids, report: PreparationReport) -> None:
        self._count, self.report = len(offsets) - 1, report
        self._runs = Runs(tokens, offsets)

    @classmethod
    def open(cls, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> "Documents":
        """Open a folder that `prepare_documents` has written, as a memory map.

        Form and size of the files are checked, the tokens themselves are not read.

        Raises
        ------
        InputError
            If the folder was prepared with another tokenizer, or files are missing or damaged.
        """
        folder = Path(folder).expanduser()
        report = PreparationReport.read(folder)
        if report.kind != "text":
            raise InputError(
                f"{folder} holds prepared {report.kind}; expected text. Choose another folder."
            )
        _check_tokenizer(folder, report, tokenizer)
        tokens, offsets = _map(folder / TOKENS), np.array(_map(folder / OFFSETS))
        _check_files(folder, report, tokens, offsets)
        return cls(tokens, offsets, report)

    def __len__(self) -> int:
        """Number of documents."""
        return self._count

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return self._runs.longest

    def run(self, rng: Random, length: int) -> Ids:
        """A run of exactly `length` tokens of one document, all places equally likely.

        The result depends on the state of `rng` and nothing else.

        Parameters
        ----------
        rng
            Draws the place.
        length
            Tokens of the run.

        Returns
        -------
        NDArray
            *Shape:* (length,), int64.

        Raises
        ------
        InputError
            If no document is as long; the longest is named.
        """
        check_length("length", length)
        if not self._runs.starts(length):
            raise InputError(
                f"A run of {length} tokens was asked for, but the longest document has "
                f"{self.longest}; expected at most that. Ask for less or prepare longer documents."
            )
        return self._runs.draw(rng, length)

    def continuation(self, rng: Random, context: int, following: int) -> tuple[Ids, Ids]:
        """Tokens from a random place, and those that follow them in the same document.

        All places in documents that are long enough are equally likely. (REFRAG, section 2.2: the
        next tokens are predicted from the context)

        Parameters
        ----------
        rng
            Draws the place.
        context, following
            How many tokens, at least 1 each.

        Returns
        -------
        tuple
            *Shapes:* (context,) and (following,), int64.

        Raises
        ------
        InputError
            If no document is long enough; the longest is named.
        """
        check_length("context", context)
        check_length("following", following)
        found = self.run(rng, context + following)
        return found[:context], found[context:]


def _tokenise(
    records: Iterable[TextRecord],
    tokenizer: PlainTokenizer,
    tokens: Callable[[Sequence[int]], None],
    offsets: Callable[[Sequence[int]], None],
    skipped: Skipped,
) -> dict[str, int]:
    documents = total = longest = characters = 0
    offsets([0])
    for record in records:
        ids, _ = tokenizer.encode(record.text)
        if not ids:
            skipped.add("text: no tokens", f"{record.text[:40]!r} gives no token")
            continue
        tokens(ids)
        documents, total = documents + 1, total + len(ids)
        longest, characters = max(longest, len(ids)), characters + len(record.text)
        offsets([total])
    if not documents:
        raise InputError(
            f"There is no document to prepare (left out: {skipped.reasons or 'nothing'}); expected "
            "at least one. Check the source."
        )
    return {
        "documents": documents, "tokens": total, "longest": longest, "characters": characters,
    }  # fmt: skip


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token id: there may be ids that no token has."""
    return max(backend(tokenizer).get_vocab(with_added_tokens=True).values()) + 1


def _check_tokenizer(
    folder: Path, report: PreparationReport, tokenizer: PreTrainedTokenizerBase
) -> None:
    there, given = (report.tokenizer or {}).get("sha256"), tokenizer_fingerprint(tokenizer)
    if there != given:
        raise InputError(
            f"{folder} was prepared with another tokenizer (fingerprint {str(there)[:12]}, this "
            f"one has {given[:12]}); expected the model's own. Prepare the data again with it."
        )


def _map(path: Path) -> NDArray[Any]:
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    return mapped


def _check_files(
    folder: Path, report: PreparationReport, tokens: NDArray[Any], offsets: NDArray[Any]
) -> None:
    documents, total = report.counts.get("documents"), report.counts.get("tokens")
    if tokens.dtype not in (np.uint16, np.uint32) or tokens.shape != (total,):
        raise _damaged(
            folder / TOKENS, f"{tokens.dtype} of shape {tokens.shape}, the report says {total}"
        )
    if offsets.dtype != np.int64 or offsets.shape != ((documents or 0) + 1,):
        raise _damaged(
            folder / OFFSETS,
            f"{offsets.dtype} of shape {offsets.shape}, the report says {documents} documents",
        )
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
        raise _damaged(folder / OFFSETS, f"not increasing from 0 to {total}")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is damaged or missing ({what}); expected a file as it was prepared. "
        "Prepare the data again."
    )
