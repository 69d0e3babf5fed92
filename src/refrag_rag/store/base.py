"""The ChunkStore protocol."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from refrag_rag.store.entry import PassageEntry


class ChunkStore(Protocol):
    """Passage entries by namespace (which model made them) and key (the passage's content).

    A damaged entry is no entry: `get` logs it and gives None, so that it is encoded and put again.
    """

    @property
    def read_only(self) -> bool:
        """Whether nothing can be put or deleted."""

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none."""

    def contains(self, namespace: str, keys: Sequence[str]) -> list[bool]:
        """Whether there is an entry, in the order of `keys`, without reading chunk embeddings.

        Damage may go unnoticed here; `get` finds it.
        """

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
