"""Texts as tokens: prepared once into an Arrow file, then read at any place by a memory map."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.text.tokenization import PlainTokenizer, backend, description
from refrag_rag.training.data.folder import PreparationReport, replaced_folder
from refrag_rag.training.data.reading import Skipped

TOKENS = "tokens.arrow"
AT_ONCE = 100  # documents in memory while they are written

Ids = NDArray[np.int64]


def is_documents(folder: str | Path) -> bool:
    """Whether a folder holds prepared text."""
    return (Path(folder).expanduser() / TOKENS).is_file()


def prepare_documents(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    sources: Sequence[str] = (),
    skipped: Skipped | None = None,
) -> PreparationReport:
    """Tokenise documents into a folder, which is complete or not there.

    ``tokens.arrow`` has a row a document (`datasets.Dataset.from_file` reads it): ``ids``, its
    tokens, uint16 where the vocabulary allows, else uint32, and ``length``, their number.
    ``report.json`` has the counts. Text is tokenised without control tokens, whatever it says.

    Parameters
    ----------
    folder
        A new folder, or one of prepared data, which is replaced at the end.
    sources, skipped
        For the report: where the documents come from, and counts of what was left out before.
        Texts that give no token are counted there too.

    Raises
    ------
    InputError
        If the folder cannot be written, holds other files, or there is no document.
    """
    skipped = Skipped() if skipped is None else skipped
    # one more than the largest id: there may be ids that no token has
    vocabulary = max(backend(tokenizer).get_vocab(with_added_tokens=True).values()) + 1
    kind = "uint16" if vocabulary <= 1 << 16 else "uint32"
    features = Features({"ids": List(Value(kind)), "length": Value("int64")})
    counts = dict.fromkeys(("documents", "tokens", "longest", "characters"), 0)
    plain = PlainTokenizer(tokenizer)
    with replaced_folder(Path(folder), TOKENS) as part:
        path = str(part / TOKENS)
        with ArrowWriter(path=path, features=features, writer_batch_size=AT_ONCE) as writer:
            for text in texts:
                ids, _ = plain.encode(text)
                if not ids:
                    skipped.add("text: no tokens", f"{text[:40]!r} gives no token")
                    continue
                writer.write({"ids": np.array(ids, kind), "length": len(ids)})
                counts["documents"] += 1
                counts["tokens"] += len(ids)
                counts["longest"] = max(counts["longest"], len(ids))
                counts["characters"] += len(text)
            if not counts["documents"]:
                raise InputError(
                    f"There is no document to prepare (left out: {dict(skipped) or 'nothing'}); "
                    "expected at least one. Check the source."
                )
            writer.finalize()
        report = PreparationReport(
            kind="text",
            sources=list(sources),
            counts=counts,
            skipped=dict(sorted(skipped.items())),
            tokenizer={"sha256": _fingerprint(tokenizer), "vocabulary": vocabulary},
        )
        report.write(part)
    return report


class Documents:
    """Tokens of many documents, a row each as `prepare_documents` writes them.

    Runs of tokens never leave a document.
    """

    def __init__(self, dataset: Dataset, report: PreparationReport) -> None:
        self.report = report
        self._rows: Any = dataset.with_format("numpy")
        lengths = np.array(self._rows["length"][:])
        # From the longest on, the documents that are long enough are always the first ones, and
        # one running sum gives the number of starts before each of them for every run length.
        self._order = np.argsort(-lengths, kind="stable")
        self._shorter = -lengths[self._order]
        self._before = np.concatenate(([0], np.cumsum(lengths[self._order])))

    @classmethod
    def open(cls, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> "Documents":
        """Open a folder that `prepare_documents` has written, as a memory map.

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
        there, given = (report.tokenizer or {}).get("sha256"), _fingerprint(tokenizer)
        if there != given:
            raise InputError(
                f"{folder} was prepared with another tokenizer (fingerprint {str(there)[:12]}, "
                f"this one has {given[:12]}); expected the model's own. Prepare the data again "
                "with it."
            )
        try:
            documents = cls(Dataset.from_file(str(folder / TOKENS)), report)
            found = {"documents": len(documents), "tokens": int(documents._before[-1])}
        except Exception as error:  # the format has errors of its own for what is cut off
            raise _damaged(folder, repr(error)) from error
        if any(report.counts.get(name) != count for name, count in found.items()):
            raise _damaged(folder, f"{found}, the report says {dict(report.counts)}")
        return documents

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return -int(self._shorter[0])

    def run(self, rng: Random, length: int) -> Ids:
        """A run of exactly `length` tokens of one document, all places equally likely.

        *Shape* (length,), int64; it depends on the state of `rng` and nothing else.

        Raises
        ------
        InputError
            If no document is as long; the longest is named.
        """
        if not 1 <= length <= self.longest:
            raise InputError(
                f"A run of {length} tokens was asked for, but the longest document has "
                f"{self.longest}; expected 1 to that. Ask for less or prepare longer documents."
            )

        def starts_before(place: int) -> int:
            return int(self._before[place]) - place * (length - 1)

        enough = int(np.searchsorted(self._shorter, -length, side="right"))
        drawn = rng.randrange(starts_before(enough))
        place = bisect_right(range(enough + 1), drawn, key=starts_before) - 1
        start = drawn - starts_before(place)
        ids: Ids = self._rows[int(self._order[place])]["ids"]
        return ids[start : start + length].astype(np.int64)

    def continuation(self, rng: Random, context: int, following: int) -> tuple[Ids, Ids]:
        """Tokens from a random place, and those that follow them in the same document.

        *Shapes* (context,) and (following,), int64, drawn as by `run`. (REFRAG, section 2.2: the
        next tokens are predicted from the context)
        """
        found = self.run(rng, context + following)
        return found[:context], found[context:]


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that makes a tokenizer, in hexadecimal."""
    return hashlib.sha256(description(tokenizer).encode()).hexdigest()


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder / TOKENS} is damaged or missing ({what}); expected a file as it was prepared. "
        "Prepare the data again."
    )
