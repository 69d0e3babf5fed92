"""Looking after a store: how much is there, is it sound, and what may go."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from refrag_rag.errors import StoreError
from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, read_sizes
from refrag_rag.store.formats import Buffer
from refrag_rag.store.lmdb import AT_ONCE, LMDBStore


@dataclass
class NamespaceStat:
    """What one model's chunk embeddings take.

    Attributes
    ----------
    bytes
        Of the entries, without what LMDB needs around them.
    formats
        Entries by the format of their chunk embeddings; ``damaged`` if they have none.
    """

    namespace: str
    passages: int = 0
    chunks: int = 0
    tokens: int = 0
    bytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the entries per token of text."""
        return self.bytes / max(1, self.tokens)


@dataclass(frozen=True)
class StoreStat:
    """What a store takes on disk.

    Attributes
    ----------
    file, map
        Bytes of the file, and how far it can grow before the memory map does.
    free
        Bytes of the file that nothing uses any more: deleted or replaced, kept until `compact`.
    """

    namespaces: tuple[NamespaceStat, ...]
    file: int
    map: int
    free: int

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the file in use per token of text."""
        return (self.file - self.free) / max(1, sum(one.tokens for one in self.namespaces))


@dataclass(frozen=True)
class Damage:
    """An entry that cannot be read, and why."""

    namespace: str
    key: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """How many entries were read, and which of them are damaged."""

    entries: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class Garbage:
    """Entries that were kept and that were removed, or would be, in one namespace."""

    namespace: str
    kept: int
    removed: int


def stat(store: LMDBStore) -> StoreStat:
    """Count passages and bytes. Reads the first part of every entry.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    spaces: dict[str, NamespaceStat] = {}
    for key, (form, chunks, tokens, size) in store.scan(_numbers):
        name = key.partition(b"/")[0].decode()
        one = spaces.setdefault(name, NamespaceStat(name))
        one.passages += 1
        one.chunks += chunks
        one.tokens += tokens
        one.bytes += size
        one.formats[form] += 1
    return StoreStat(tuple(spaces.values()), *store.sizes())


def verify(store: LMDBStore) -> Verification:
    """Read every entry and compare its checksum."""
    read, damaged = 0, []
    try:
        for key, reason in store.scan(_damage_of):
            read += 1
            if reason:
                name, _, rest = key.decode(errors="backslashreplace").partition("/")
                damaged.append(Damage(name, rest, reason))
    except StoreError as error:  # the pages between the entries
        damaged.append(Damage("", "", str(error)))
    return Verification(read, tuple(damaged))


def collect_garbage(
    store: ChunkStore,
    keys: Collection[str],
    *,
    namespace: str | None = None,
    dry_run: bool = False,
) -> list[Garbage]:
    """Remove the entries of passages that no longer exist.

    Parameters
    ----------
    keys
        Keys (`passage_key`) of all passages that exist.
    namespace
        Only here; by default in every namespace.
    dry_run
        Only count.

    Raises
    ------
    StoreError
        If `keys` is empty, which would remove everything, or the store cannot be written.
    """
    if not keys:
        raise StoreError(
            "No passage is left to keep, so everything would be removed; expected the passages "
            "that exist. Delete the store's folder if that is what you want."
        )
    living = frozenset(keys)
    found = []
    for name in store.namespaces() if namespace is None else [namespace]:
        stored = list(store.keys(name))
        gone = [key for key in stored if key not in living]
        if not dry_run:
            for start in range(0, len(gone), AT_ONCE):
                store.delete(name, gone[start : start + AT_ONCE])
        found.append(Garbage(name, len(stored) - len(gone), len(gone)))
    return found


def _numbers(_key: bytes, data: Buffer) -> tuple[str, int, int, int]:
    """Format, chunks, tokens and bytes of a value."""
    try:
        form, chunks, _, tokens, *_ = read_sizes(data)
    except StoreError:
        return "damaged", 0, 0, len(data)
    return form, chunks, tokens, len(data)


def _damage_of(key: bytes, data: Buffer) -> str:
    try:
        PassageEntry.from_bytes(data)
    except StoreError as error:
        return str(error)
    return "" if b"/" in key else "its key has no namespace"
