"""What a preparation made, kept beside it as ``report.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from refrag_rag.errors import InputError

Kind = Literal["text", "questions"]
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """Counts of a preparation.

    Attributes
    ----------
    kind
        ``text`` or ``questions``.
    sources
        What was read, as it was named.
    counts
        Of text: documents, tokens, tokens of the longest document, characters. Of questions:
        questions, passages, answers, questions with a gold passage, characters.
    skipped
        Records that were left out, by reason.
    tokenizer
        ``sha256`` of its description and ``vocabulary``, its size; None for questions.
    """

    kind: Kind
    sources: Sequence[str]
    counts: Mapping[str, int]
    skipped: Mapping[str, int]
    tokenizer: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write ``report.json`` into a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / REPORT).write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")

    @classmethod
    def read(cls, folder: Path) -> "PreparationReport":
        """Read ``report.json`` of a folder.

        Raises
        ------
        InputError
            If there is none, or it is no such report.
        """
        path = folder / REPORT
        try:
            raw = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
            report = cls(**{field.name: raw[field.name] for field in fields(cls)})
            return replace(
                report,
                sources=tuple(report.sources),
                counts=dict(report.counts),
                skipped=dict(report.skipped),
                tokenizer=None if report.tokenizer is None else dict(report.tokenizer),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} cannot be read ({error!r}); expected the report of prepared data. "
                "Prepare the data again."
            ) from error
