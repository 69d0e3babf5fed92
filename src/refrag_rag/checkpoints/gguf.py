"""GGUF files, which transformers reads and dequantises from a folder of their own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from refrag_rag.errors import need

GGUF = ".gguf"


@contextmanager
def for_transformers(place: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder for transformers, and the GGUF file in it, if it is one.

    A GGUF file gets a folder of its own: of one that lies beside other models transformers would
    take their tokenizer.
    """
    if place.suffix != GGUF:
        yield place, {}
        return
    need("gguf", f"Reading {place.name}")
    with TemporaryDirectory(ignore_cleanup_errors=True) as alone:
        link = Path(alone) / place.name
        try:
            link.symlink_to(place.resolve())
        except OSError:  # not everybody may make links on Windows
            shutil.copyfile(place, link)
        yield Path(alone), {"gguf_file": place.name}
