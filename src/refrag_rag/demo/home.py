"""The home of an index: which folder it is of, one writer at a time, and never half an index.

An index is written into a folder of its own; then the record, which names that folder, is replaced
in one step. Whoever reads, reads what the record names: the older index or the newer one, whole.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from refrag_rag.checkpoints.resolve import EMBEDDED
from refrag_rag.errors import InputError, StoreError

MODEL = "smol"
FORMAT = 1  # raised when passages are cut or embedded in another way: older indexes are made anew
CHUNKS, RECORD, LOCK, INDEX = "chunks", "refrag.json", "lock", "index-"


@dataclass(frozen=True)
class Record:
    """What is known of an index."""

    folder: str  # of the documents, absolute
    model: str  # name, folder or hub id of what made the chunk embeddings
    k: int | None = None  # its chunk size, if not its own
    index: str = ""  # name of the folder in the home that holds the index
    format: int = FORMAT


class Home:
    """A folder with an index, its record and the chunk embeddings.

    Parameters
    ----------
    path
        The folder; `locked` makes it if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def chunks(self) -> Path:
        """Where the store of chunk embeddings is."""
        return self.path / CHUNKS

    def record(self) -> Record | None:
        """What is known of the index; None where there is none.

        Raises
        ------
        InputError
            If the record cannot be read.
        """
        place = self.path / RECORD
        try:
            return Record(**json.loads(place.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{place} cannot be read ({type(error).__name__}: {error}); expected what "
                f"`refrag index` writes. Delete {self.path} and index again."
            ) from error

    def existing(self) -> Record:
        """What is known of the index.

        Raises
        ------
        InputError
            If there is none.
        """
        record = self.record()
        if record is None and self.chunks.is_dir():
            raise InputError(
                f"{self.path} holds an index that was not finished; expected a whole one. Run "
                "`refrag index FOLDER` again: it goes on where it was stopped."
            )
        if record is None:
            raise InputError(
                f"{self.path} holds no index; expected one. Run `refrag index FOLDER` first."
            )
        return record

    def settle(self, folder: Path, model: str | None, k: int | None) -> Record:
        """What to index and ask with: what is given, or else what was indexed with, or else smol.

        Parameters
        ----------
        folder
            Of the documents.
        model, k
            None: not given.
        """
        known = self.record()
        if known is not None and model in (None, known.model):
            model, k = known.model, known.k if k is None else k
        if model is not None and model not in EMBEDDED and Path(model).exists():
            model = str(Path(model).resolve())  # asked from another place, it is still that one
        return Record(str(folder.resolve()), model or MODEL, k)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that writes here; removes what a killed run has left.

        Raises
        ------
        InputError
            If another process is, or the folder cannot be made.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.path / LOCK, timeout=0))
            except Timeout as error:
                raise InputError(
                    f"Another `refrag index` is at work in {self.path}; expected to be the only "
                    "one. Wait for its end, or give another --home."
                ) from error
            except OSError as error:
                raise InputError(
                    f"{self.path} cannot be written ({error}); expected a folder for index and "
                    "embeddings. Give another --home."
                ) from error
            self._tidy()
            yield

    def check_folder(self, folder: Path) -> None:
        """See that the index here, if there is one, is of this folder.

        Raises
        ------
        InputError
            If it is of another one.
        """
        record = self.record()
        if record is not None and Path(record.folder) != folder.resolve():
            raise InputError(
                f"{self.path} holds an index of {record.folder}, not of {folder}; expected the "
                f"same folder. Give another --home, or delete {self.path}."
            )

    @contextmanager
    def replacing(self, record: Record) -> Iterator[Path]:
        """A new folder to write an index into; at the end it takes the older one's place.

        Raises
        ------
        StoreError
            If it cannot be written; the older index is then as it was.
        """
        try:
            made = Path(tempfile.mkdtemp(prefix=INDEX, dir=self.path))
            yield made
            beside = made / RECORD
            values = asdict(record) | {"index": made.name}
            beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            beside.replace(self.path / RECORD)
        except (OSError, RuntimeError) as error:  # FAISS raises the latter where a disk is full
            raise StoreError(
                f"The index cannot be written to {self.path} ({error}); expected room and "
                "permission there. An older index there is as it was."
            ) from error
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Remove indexes that the record does not name."""
        record = self.record()
        for place in self.path.glob(f"{INDEX}*"):
            if record is None or place.name != record.index:
                shutil.rmtree(place, ignore_errors=True)
