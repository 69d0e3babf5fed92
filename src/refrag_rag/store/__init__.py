"""Stores for chunk embeddings. The one on disk, which needs POSIX, is imported on first use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, passage_key
from refrag_rag.store.keyvalue import KeyValueChunkStore
from refrag_rag.store.memory import MemoryStore

if TYPE_CHECKING:
    from refrag_rag.store.lmdb import LMDBStore as LMDBStore

__all__ = [
    "ChunkStore",
    "KeyValueChunkStore",
    "LMDBStore",
    "MemoryStore",
    "PassageEntry",
    "open_store",
    "passage_key",
]


def open_store(path: str | Path | None) -> ChunkStore:
    """Open the store on disk at `path`, or one in memory if there is no path."""
    if path is None:
        return MemoryStore()
    from refrag_rag.store.lmdb import LMDBStore

    return LMDBStore(path)


def __getattr__(name: str) -> Any:
    if name != "LMDBStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refrag_rag.store.lmdb import LMDBStore

    return LMDBStore
