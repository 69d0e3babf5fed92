"""Lines of JSON-lines files, plain or compressed, as bytes."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from refrag_rag.errors import InputError

BOM = b"\xef\xbb\xbf"
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
EXPECTED = "a .jsonl, .jsonl.gz or .jsonl.xz file, a folder of such files, or hf:NAME"


def find_files(source: Path) -> list[Path]:
    """The file itself, or the files directly in a folder, sorted by name.

    Raises
    ------
    InputError
        If there is none.
    """
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.is_file() and is_lines(path))
        if not found:
            raise InputError(
                f"The folder {source} has no .jsonl, .jsonl.gz or .jsonl.xz file in it; expected "
                f"{EXPECTED}. For a folder of the datasets library write hf:{source}."
            )
        return found
    if not source.is_file():
        raise InputError(f"{source} does not exist; expected {EXPECTED}. Check the path.")
    if not is_lines(source):
        raise InputError(
            f"{source} is of no known kind; expected {EXPECTED}. For other formats of the "
            f"datasets library (parquet, csv) write hf:{source}."
        )
    return [source]


def is_lines(path: Path) -> bool:
    """Whether the name is that of a JSON-lines file."""
    return path.name.lower().endswith(ENDINGS)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its number, from 1, without a byte-order mark. Blank lines are left out.

    Raises
    ------
    InputError
        If the file cannot be read to its end; the last line that could be is named.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(BOM) if number == 1 else line
                if text.strip():
                    yield number, text
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); expected a whole "
            "file. It may have been cut off: copy or download it again."
        ) from error


def _open(path: Path) -> BinaryIO:
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        case _:
            return path.open("rb")
