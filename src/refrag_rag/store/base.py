"""The ChunkStore protocol."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from refrag_rag.store.entry import PassageEntry


class ChunkStore(Protocol):
    """Passage entries by namespace (which model made them) and key (the passage's content)."""

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none."""

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries or none."""

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted."""

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""

    def close(self) -> None:
        """Let go of files; calling again does nothing."""
