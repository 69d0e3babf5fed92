"""LlamaIndex's key-value stores as a store for chunk embeddings."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.storage.kvstore.types import BaseKVStore

from refrag_rag.errors import StoreError
from refrag_rag.store import PassageEntry
from refrag_rag.store.sealed import seal, unseal

FIELD = "entry"


class KVChunkStore:
    """A `ChunkStore` in any key-value store: Redis, MongoDB, Postgres ...

    Several app servers can share one. A value that is not what was put there counts as missing:
    the passage is encoded anew. `put` writes one value after the other.

    Parameters
    ----------
    store
        Keeps the values, as base64 text.
    collection
        What the names of our collections begin with.
    """

    def __init__(self, store: BaseKVStore, *, collection: str = "refrag") -> None:
        self._store, self._collection = store, collection

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none that can be trusted.

        Raises
        ------
        StoreError
            If the key-value store fails.
        """
        place = self._place(namespace)
        found = [self._ask("get", key, collection=place) for key in keys]
        return [
            unseal(f"{place}/{key}", _bytes(value)) for key, value in zip(keys, found, strict=True)
        ]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries.

        Raises
        ------
        StoreError
            If the key-value store fails.
        """
        place = self._place(namespace)
        if entries:  # collections cannot be listed, so their names are kept in one
            self._ask("put", namespace, {"collection": place}, collection=self._collection)
        for key, entry in entries.items():
            text = base64.b64encode(seal(f"{place}/{key}", entry)).decode()
            self._ask("put", key, {FIELD: text}, collection=place)

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""
        place = self._place(namespace)
        return sum(bool(self._ask("delete", key, collection=place)) for key in keys)

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted; reads all values, as there is no other way."""
        return iter(sorted(self._ask("get_all", collection=self._place(namespace))))

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        known = self._ask("get_all", collection=self._collection)
        return sorted(name for name in known if next(self.keys(name), None) is not None)

    def close(self) -> None:
        """Nothing: whoever made the key-value store closes it."""

    def _place(self, namespace: str) -> str:
        return f"{self._collection}.{namespace}"

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self._store, method)(*arguments, **named)
        except Exception as error:  # of any client library
            name = type(self._store).__name__
            raise StoreError(
                f"The key-value store {name} failed in {method} ({error!r})."
            ) from error


def _bytes(value: object) -> object:
    """Bytes of a value, or what there is if it is none of ours."""
    text = value.get(FIELD, b"") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        return text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
