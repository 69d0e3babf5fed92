"""LangChain's byte stores as a store for chunk embeddings; the store on disk as a byte store."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.stores import BaseStore, ByteStore

from refrag_rag.errors import StoreError
from refrag_rag.store import LMDBStore, PassageEntry
from refrag_rag.store.plain import PLAIN, unwrap_plain, wrap_plain
from refrag_rag.store.sealed import seal, unseal


class ByteChunkStore:
    """A `ChunkStore` in any byte store: Redis, files, ... Several app servers can share one.

    Unlike the store on disk, `put` is as atomic as the byte store's `mset` is. A value that is not
    what was put there counts as missing: the passage is encoded anew.

    Parameters
    ----------
    store
        Keeps the bytes.
    prefix
        What our keys begin with, if others use the byte store too.
    """

    def __init__(self, store: BaseStore[str, bytes], *, prefix: str = "refrag/") -> None:
        self._store, self._prefix = store, prefix

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none that can be trusted.

        Raises
        ------
        StoreError
            If the byte store fails.
        """
        places = [self._place(namespace, key) for key in keys]
        found = self._ask("mget", places) if places else []
        if len(found) != len(places):
            raise StoreError(
                f"{self._name} gave {len(found)} values for {len(places)} keys; expected one each."
            )
        return [unseal(place, value) for place, value in zip(places, found, strict=True)]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries.

        Raises
        ------
        StoreError
            If the byte store fails.
        """
        places = {self._place(namespace, key): entry for key, entry in entries.items()}
        if places:
            self._ask("mset", [(place, seal(place, entry)) for place, entry in places.items()])

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""
        places = [self._place(namespace, key) for key in dict.fromkeys(keys)]
        if not places:
            return 0
        there = [
            place
            for place, value in zip(places, self._ask("mget", places), strict=True)
            if value is not None
        ]
        if there:
            self._ask("mdelete", there)
        return len(there)

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted."""
        start = self._place(namespace, "")
        found = self._ask("yield_keys", prefix=start)
        return iter(sorted(key.removeprefix(start) for key in found if key.startswith(start)))

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        found = self._ask("yield_keys", prefix=self._prefix)
        places = (key.removeprefix(self._prefix) for key in found if key.startswith(self._prefix))
        return sorted({place.partition("/")[0] for place in places})

    def close(self) -> None:
        """Nothing: whoever made the byte store closes it."""

    @property
    def _name(self) -> str:
        return f"The byte store {type(self._store).__name__}"

    def _place(self, namespace: str, key: str) -> str:
        if not namespace or "/" in namespace:
            raise StoreError(f"Namespace {namespace[:80]!r}; expected one without '/'.")
        return f"{self._prefix}{namespace}/{key}"

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            found = getattr(self._store, method)(*arguments, **named)
            return list(found) if method != "mset" and found is not None else found
        except Exception as error:  # of any client library
            raise StoreError(f"{self._name} failed in {method} ({error!r}).") from error


class LMDBByteStore(ByteStore):
    """A byte store in the folder of an `LMDBStore`, apart from its chunk embeddings.

    Parameters
    ----------
    store
        The store, or its folder.
    namespace
        Several byte stores in one folder have different ones.
    """

    def __init__(self, store: LMDBStore | str | Path, *, namespace: str = "default") -> None:
        self._store = store if isinstance(store, LMDBStore) else LMDBStore(store)
        self._namespace = PLAIN + namespace

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of `keys`, None where there is none.

        Raises
        ------
        StoreError
            If a value is damaged.
        """
        found = self._store.get_bytes(self._namespace, keys)
        return [None if value is None else unwrap_plain(value) for value in found]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Write all values in one transaction, or none."""
        values = {key: wrap_plain(value) for key, value in key_value_pairs}
        self._store.put_bytes(self._namespace, values)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete values; missing ones are passed over."""
        self._store.delete(self._namespace, keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """All keys that begin with `prefix`, sorted."""
        for key in self._store.keys(self._namespace):
            if key.startswith(prefix or ""):
                yield key
