"""KeyValueChunkStore: entries in somebody's key-value store, which may lose or mix up values."""

import base64
import binascii
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry, sound_entry

DIGEST = 16
FIELD = "entry"
logger = logging.getLogger(__name__)


class KeyValueChunkStore:
    """A `ChunkStore` in a key-value store: Redis, files, ... Several app servers can share one.

    `put` is as atomic as the key-value store's own. A value that is not what was put there, under
    this very key, counts as missing: the passage is encoded anew. See `from_langchain` and
    `from_llama_index` for those of the frameworks.

    Parameters
    ----------
    get
        Values of some keys, in their order, None where there is none.
    set
        Keeps pairs of key and value.
    delete
        Deletes keys that are there.
    keys
        All keys, perhaps with those of others.
    prefix
        What our keys begin with.
    """

    read_only = False

    def __init__(
        self,
        *,
        get: Callable[[Sequence[str]], Iterable[object]],
        set: Callable[[Sequence[tuple[str, bytes]]], object],
        delete: Callable[[Sequence[str]], object],
        keys: Callable[[], Iterable[str]],
        prefix: str = "refrag/",
    ) -> None:
        self._get, self._set, self._delete, self._keys = get, set, delete, keys
        self._prefix = prefix

    @classmethod
    def from_langchain(cls, store: Any, *, prefix: str = "refrag/") -> "KeyValueChunkStore":
        """Of a byte store of LangChain (``ByteStore``).

        Parameters
        ----------
        prefix
            What our keys begin with, if others use the byte store too.
        """
        return cls(
            get=store.mget,
            set=store.mset,
            delete=store.mdelete,
            keys=lambda: store.yield_keys(prefix=prefix),
            prefix=prefix,
        )

    @classmethod
    def from_llama_index(cls, store: Any, *, collection: str = "refrag") -> "KeyValueChunkStore":
        """Of a key-value store of LlamaIndex (``BaseKVStore``), which keeps JSON: base64 text.

        To list keys it has to read all values, as there is no other way.

        Parameters
        ----------
        collection
            Ours.
        """

        def put(pairs: Sequence[tuple[str, bytes]]) -> None:
            for key, value in pairs:
                store.put(key, {FIELD: base64.b64encode(value).decode()}, collection=collection)

        return cls(
            get=lambda keys: [_from_json(store.get(key, collection=collection)) for key in keys],
            set=put,
            delete=lambda keys: [store.delete(key, collection=collection) for key in keys],
            keys=lambda: store.get_all(collection=collection),
            prefix="",
        )

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none that can be trusted.

        Raises
        ------
        StoreError
            If the key-value store fails.
        """
        places = self._places(namespace, keys)
        return [_unseal(place, value) for place, value in self._values(places)]

    def contains(self, namespace: str, keys: Sequence[str]) -> list[bool]:
        """Whether there is an entry; the values have to be read, so that they are checked too."""
        return [entry is not None for entry in self.get(namespace, keys)]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries.

        Raises
        ------
        StoreError
            If the key-value store fails.
        """
        places = self._places(namespace, list(entries))
        sealed = [
            (place, _seal(place, entry.to_bytes()))
            for place, entry in zip(places, entries.values(), strict=True)
        ]
        if sealed:
            _ask("set", lambda: self._set(sealed))

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""
        values = self._values(self._places(namespace, list(dict.fromkeys(keys))))
        there = [place for place, value in values if value is not None]
        if there:
            _ask("delete", lambda: self._delete(there))
        return len(there)

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted."""
        (start,) = self._places(namespace, [""])
        return iter(sorted(key.removeprefix(start) for key in self._all() if key.startswith(start)))

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        ours = (key.removeprefix(self._prefix) for key in self._all())
        return sorted({key.partition("/")[0] for key in ours})

    def close(self) -> None:
        """Nothing: whoever made the key-value store closes it."""

    def _all(self) -> list[str]:
        found = _ask("keys", lambda: list(self._keys()))
        return [key for key in found if key.startswith(self._prefix)]

    def _values(self, places: Sequence[str]) -> list[tuple[str, object]]:
        found = _ask("get", lambda: list(self._get(places))) if places else []
        if len(found) != len(places):
            raise StoreError(
                f"The key-value store gave {len(found)} values for {len(places)} keys; expected "
                "one each."
            )
        return list(zip(places, found, strict=True))

    def _places(self, namespace: str, keys: Sequence[str]) -> list[str]:
        if not namespace or "/" in namespace:
            raise StoreError(f"Namespace {namespace[:80]!r}; expected one without '/'.")
        return [f"{self._prefix}{namespace}/{key}" for key in keys]


def _ask(what: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # of any client library
        raise StoreError(f"The key-value store failed in {what} ({error!r}).") from error


def _seal(place: str, data: bytes) -> bytes:
    """A digest of address and value in front tells what was really put there."""
    key = hashlib.sha256(place.encode()).digest()
    return hashlib.blake2b(data, digest_size=DIGEST, key=key).digest() + data


def _unseal(place: str, sealed: object) -> PassageEntry | None:
    if sealed is None:
        return None
    if isinstance(sealed, bytes | bytearray | memoryview):
        data = bytes(sealed)[DIGEST:]
        if sealed == _seal(place, data):
            return sound_entry(data, place)  # whole, but perhaps of a newer version
    logger.warning("The value at %s is not what was put there; it counts as missing.", place)
    return None


def _from_json(value: object) -> object:
    """Bytes of a value, or what there is if it is none of ours."""
    text = value.get(FIELD, b"") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        return text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
