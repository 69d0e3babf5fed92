"""A folder of prepared data: complete or not there, with a report of what was made."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from refrag_rag.errors import InputError

Kind = Literal["text", "questions"]
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """Counts of a preparation, kept beside what was made as ``report.json``.

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
            return cls(**json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} cannot be read ({error!r}); expected the report of prepared data. "
                "Prepare the data again."
            ) from error


@contextmanager
def replaced_folder(folder: Path, content: str) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well.

    An error or a kill before the end leaves `folder` as it was. The exchange is two renames: a
    kill between them leaves the old folder beside, under a hidden name that ends in ``.old``.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds more than the file `content` and its report.
    """
    folder = folder.expanduser().resolve()
    _check_ours(folder, {content, REPORT})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}). Choose another place.") from error
    try:
        yield part
        part.chmod(0o755)
        _exchange(part, folder)
    except OSError as error:
        raise InputError(
            f"{folder} was not prepared ({error}). Nothing was changed; try again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_ours(folder: Path, files: set[str]) -> None:
    if not folder.exists():
        return
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    ours = folder.is_dir() and there <= files and (REPORT in there or not there)
    if not ours:
        raise InputError(
            f"{folder} holds {', '.join(sorted(there - files)[:3] or sorted(there))}; expected a "
            "new or empty folder, or one of prepared data, which is replaced. Choose another."
        )


def _exchange(part: Path, folder: Path) -> None:
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_suffix(".old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
