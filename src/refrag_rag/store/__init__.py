"""Stores for chunk embeddings."""

from pathlib import Path

from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, passage_key
from refrag_rag.store.keyvalue import KeyValueChunkStore
from refrag_rag.store.lmdb import LMDBStore
from refrag_rag.store.memory import MemoryStore

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
    return MemoryStore() if path is None else LMDBStore(path)
