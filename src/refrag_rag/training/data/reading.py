"""Records of files, folders and data sets: read, checked, and named or counted if they are bad."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from refrag_rag.errors import InputError
from refrag_rag.training.data.records import BadRecordError

HUB = "hf:"
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
LOGGED = 3  # records of each reason

Record = TypeVar("Record")
Rows = Iterator[tuple[str, Any]]  # where each stands, and what: bytes of a line, or fields
logger = logging.getLogger(__name__)


class Skipped(Counter[str]):
    """Counts the records that were left out, by reason. The first of each reason are logged."""

    def add(self, reason: str, message: str) -> None:
        """Count one record."""
        self[reason] += 1
        if self[reason] <= LOGGED:
            logger.warning("left out: %s", message)
        elif self[reason] == LOGGED + 1:
            logger.warning("further records with %r are counted, not logged", reason)


def read_records(
    sources: Sequence[str | Path],
    make: Callable[[dict[str, Any]], Record],
    *,
    split: str | None = None,
    name: str | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Record]:
    """Records one by one, in order. All sources are looked for before the first one is read.

    Parameters
    ----------
    sources
        Each a ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.xz`` file, a folder of such files (read in the
        order of their names, folders in it are not), or ``hf:`` and a name: a hub id, a folder
        saved by the `datasets` library, or a file that it reads. Data sets are streamed.
    make
        Makes a record of its fields, or raises `BadRecordError`.
    split, name
        Of data sets. The split may be left out if there is only one; `name` is that of the
        configuration.
    skipped
        Counts records that cannot be used, and they are left out. Without it they are errors.

    Raises
    ------
    InputError
        If a source cannot be read, or for a bad record; file, line and field are named.
    """
    if isinstance(sources, str | Path) or not sources:
        raise InputError(f"sources is {sources!r}; expected a list of at least one source.")
    hub = [str(source).startswith(HUB) for source in sources]
    if not any(hub) and (split is not None or name is not None):
        raise InputError(
            f"split={split!r} and name={name!r} were given; expected them only for data sets "
            "(hf:NAME). Leave them out."
        )
    rows = [
        _dataset_rows(str(source), name, split) if of_hub else _lines(Path(source).expanduser())
        for source, of_hub in zip(sources, hub, strict=True)
    ]
    return _checked(chain.from_iterable(rows), make, skipped)


def _checked(
    rows: Rows, make: Callable[[dict[str, Any]], Record], skipped: Skipped | None
) -> Iterator[Record]:
    for place, row in rows:
        fields: dict[str, Any] = {}
        try:
            fields = _object(row) if isinstance(row, bytes) else row
            record = make(fields)
        except BadRecordError as error:
            there = f" (there: {', '.join(map(repr, fields))})" if fields else ""
            message = f"{place}: {error}{there}"
            if skipped is None:
                raise BadRecordError(
                    f"{message}. Correct the record, or prepare the data with --skip-bad.",
                    error.reason,
                ) from error
            skipped.add(error.reason, message)
        else:
            yield record


def _object(line: bytes) -> dict[str, Any]:
    shown = repr(line.strip()[:60].decode("utf-8", "replace"))
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        found = f"byte {line[error.start]:#04x} at {error.start} of the line is not UTF-8"
        problem = "not UTF-8"
    except (ValueError, RecursionError) as error:
        found, problem = f"{shown} is not JSON ({error})", "not JSON"
    else:
        if isinstance(record, dict):
            return record
        found, problem = f"{shown} is {type(record).__name__}, not an object", "not an object"
    raise BadRecordError(f"{found}; expected one JSON object a line, in UTF-8", f"line: {problem}")


def _lines(source: Path) -> Rows:
    """Lines of a file, or of the files directly in a folder, sorted by name."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path for path in files if path.is_file() and path.name.lower().endswith(ENDINGS)]
    if not files:
        what = "is of no known kind" if source.exists() else "does not exist"
        what = f"has no {', '.join(ENDINGS)} file in it" if source.is_dir() else what
        raise InputError(
            f"{source} {what}; expected a .jsonl, .jsonl.gz or .jsonl.xz file, a folder of such "
            "files, or hf:NAME. For a folder or another format of the datasets library (parquet, "
            f"csv) write hf:{source}."
        )
    return chain.from_iterable(map(_file_lines, files))


def _file_lines(path: Path) -> Rows:
    """Lines that are not blank, counted from 1, without a byte-order mark."""
    number = 0
    try:
        with fsspec.open(str(path), "rb", compression="infer") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield f"{path}, line {number}", text
    except Exception as error:  # each compression has errors of its own
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); expected a whole "
            "file. It may have been cut off: copy or download it again."
        ) from error


def _dataset_rows(source: str, name: str | None, split: str | None) -> Rows:
    try:
        dataset = _open(source.removeprefix(HUB), name, split)
    except Exception as error:  # the hub, the network and each format have errors of their own
        raise InputError(
            f"{source} (config {name!r}, split {split!r}) cannot be loaded "
            f"({type(error).__name__}: {error}); expected a hub id, a saved folder or a file that "
            "datasets reads. Check name, config and split."
        ) from error
    if isinstance(dataset, dict):
        names = list(dataset)
        if split not in names and (split is not None or len(names) > 1):
            raise InputError(
                f"{source} has the splits {', '.join(names)}; expected one of them, not {split!r}. "
                "Name it with split=."
            )
        dataset = dataset[split or names[0]]
    return _numbered(dataset, ", ".join(part for part in (source, name, split) if part))


def _open(source: str, name: str | None, split: str | None) -> Any:
    import datasets

    path = Path(source).expanduser()
    if (path / "dataset_dict.json").is_file() and name is None:
        return datasets.load_from_disk(str(path))
    if (path / "state.json").is_file() and name is None and split is None:
        return datasets.load_from_disk(str(path))
    files = None
    if path.is_file():  # its ending says how it is read
        source, files = str(path.parent), path.name
    return datasets.load_dataset(source, name, data_files=files, split=split, streaming=True)


def _numbered(dataset: Any, place: str) -> Rows:
    """Rows, counted from 0 as the library does."""
    number = -1
    try:
        for number, row in enumerate(dataset):
            yield f"{place}, row {number}", row
    except Exception as error:  # the formats raise errors of many libraries
        raise InputError(
            f"{place} cannot be read at row {number + 1} ({type(error).__name__}: {error}); "
            "expected rows of one form. Check the data set or the connection."
        ) from error
