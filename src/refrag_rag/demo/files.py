"""Files of a folder as LlamaIndex documents: text in the usual encodings, and PDF and the like.

A document's id is its path below the folder; none of its metadata costs decoder positions.
"""

import codecs
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document
from tqdm import tqdm

from refrag_rag.demo.html import SUFFIXES, html_text
from refrag_rag.demo.quiet import quiet
from refrag_rag.errors import InputError

PATH, TITLE = "file_path", "title"
LONGEST_TITLE = 60
OFFICE = (".pdf", ".docx", ".pptx", ".epub")  # with the package llama-index-readers-file
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONTROL = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f]")
FEW = 0.01  # control characters that text may have: form feeds of old, a ^Z at the end


class Files(NamedTuple):
    """What was read of a folder, and the files that were not, both sorted by path."""

    documents: list[Document]
    skipped: list[str]


def read_folder(folder: Path, *, without: Path | None = None, progress: bool = False) -> Files:
    """Read all files of a folder and the folders below it; hidden ones are left out.

    Links are followed, each folder once. Files without a word are neither read nor skipped.

    Parameters
    ----------
    without
        A folder that is left out, such as the index's own.
    progress
        Show a bar.

    Raises
    ------
    InputError
        If there is no such folder, or no readable document in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with documents.")
    skipped: list[str] = []
    documents = []
    paths = list(_paths(folder, without, lambda path: skipped.append(_name(path, folder))))
    for path in tqdm(paths, desc="reading", unit="file", disable=not progress):
        name, text = _name(path, folder), _read(path)
        if text is None:
            skipped.append(name)
        elif text.strip():
            documents.append(_document(name, text))
    if not documents:
        raise InputError(
            f"{folder} has no readable text in its {len(paths)} files; expected txt, md or other "
            "documents with text. PDF needs `pip install llama-index-readers-file`."
        )
    return Files(documents, sorted(skipped))


def decode(data: bytes) -> str | None:
    """Text of a file's bytes, its line breaks as in Unix; None where they are no text.

    UTF-8, UTF-16 and UTF-32 with a byte order mark, UTF-8, and what else Western Europe used:
    cp1252, and Latin-1 where that has no such character. UTF-8 with some damage stays UTF-8.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _lines(data[len(mark) :].decode(encoding, "replace"))
    if b"\0" in data or data.startswith(b"%PDF-"):
        return None
    if len(CONTROL.findall(data)) > FEW * len(data) + 1:
        return None
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if damaged and damaged * 4 > sum(letter > "\x7f" for letter in text):
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return _lines(text)


def title(text: str) -> str:
    """First line of a document without its marks, or "" where it is long or no words."""
    first = text.lstrip().partition("\n")[0].strip().strip("#=*").strip()
    return first if first[:1].isalnum() and len(first) <= LONGEST_TITLE else ""


def _paths(folder: Path, without: Path | None, skip: Callable[[Path], None]) -> Iterator[Path]:
    """Files of a folder, sorted; calls `skip` with what cannot be read."""
    seen = {os.path.realpath(without)} if without is not None else set()
    walk = os.walk(folder, followlinks=True, onerror=lambda error: skip(Path(error.filename)))
    for place, folders, files in walk:
        real = os.path.realpath(place)
        if real in seen:  # a link to where we were, or what is to be left out
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.is_file():
                yield path
            else:  # a pipe, a link to nowhere or to itself
                skip(path)


def _read(path: Path) -> str | None:
    if path.suffix.lower() in OFFICE:
        return _read_office(path)
    try:
        text = decode(path.read_bytes())
    except OSError:
        return None
    return html_text(text) if text and path.suffix.lower() in SUFFIXES else text


def _read_office(path: Path) -> str | None:
    """Text of a PDF or the like; None where LlamaIndex has no reader for it, or it fails."""
    with quiet("llama_index.core.readers.file.base"):  # notes about optional packages
        readers = SimpleDirectoryReader.supported_suffix_fn()
        if path.suffix.lower() not in readers:
            return None
        try:
            pages = SimpleDirectoryReader(input_files=[path]).load_data()
        except (ImportError, ValueError, OSError):  # a reader's own package is missing
            return None
    return "\n\n".join(page.text for page in pages) or None


def _document(name: str, text: str) -> Document:
    metadata = {PATH: name, TITLE: title(text)}
    return Document(
        text=text,
        id_=name,
        metadata=metadata,
        excluded_llm_metadata_keys=list(metadata),
        excluded_embed_metadata_keys=list(metadata),
    )


def _name(path: Path, folder: Path) -> str:
    """Path below the folder; bytes that are no text are replaced, so that it can be printed."""
    below = path.relative_to(folder) if path.is_relative_to(folder) else path
    return os.fsencode(below.as_posix()).decode("utf-8", "replace")


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
