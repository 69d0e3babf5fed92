"""MemoryStore: entries in a dictionary, gone with the process."""

from collections.abc import Iterator, Mapping, Sequence

from refrag_rag.store.entry import PassageEntry


class MemoryStore:
    """A `ChunkStore` without files."""

    read_only = False

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, PassageEntry]] = {}

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none."""
        entries = self._entries.get(namespace, {})
        return [entries.get(key) for key in keys]

    def contains(self, namespace: str, keys: Sequence[str]) -> list[bool]:
        """Whether there is an entry, in the order of `keys`."""
        entries = self._entries.get(namespace, {})
        return [key in entries for key in keys]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries."""
        if entries:
            self._entries.setdefault(namespace, {}).update(entries)

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""
        entries = self._entries.get(namespace, {})
        deleted = sum(entries.pop(key, None) is not None for key in keys)
        if not entries:
            self._entries.pop(namespace, None)
        return deleted

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted."""
        return iter(sorted(self._entries.get(namespace, {})))

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        return sorted(self._entries)

    def close(self) -> None:
        """Nothing to let go of."""
