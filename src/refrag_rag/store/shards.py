"""Shards: entries in safetensors files, to carry a store about or to merge several into one.

LMDB has one writer at a time and one machine. Workers elsewhere write shards; one process takes
them in.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry
from refrag_rag.store.lmdb import LMDBStore
from refrag_rag.store.plain import PLAIN

KIND = "refrag chunk embeddings, 1"
SUFFIX = ".safetensors"
PASSAGES = 4096


class Shard(NamedTuple):
    """Entries of one namespace, as bytes by key."""

    namespace: str
    values: Mapping[str, bytes]


@dataclass(frozen=True)
class Imported:
    """What an import found and did.

    Attributes
    ----------
    new
        Entries that the store had not, or had damaged.
    scored
        Entries that the store had without some scores, and now has with them.
    """

    shards: int
    entries: int
    new: int
    scored: int


def write_shard(
    folder: str | Path, namespace: str, entries: Mapping[str, "PassageEntry | bytes"]
) -> Path:
    """Write one shard beside the others; it has its name only once it is whole.

    Parameters
    ----------
    folder
        Made if it does not exist.
    entries
        By key; bytes are those of `PassageEntry.to_bytes`.

    Returns
    -------
    Path
        The file. Its name follows from its content, so workers do not get in each other's way.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    values = {k: v if isinstance(v, bytes) else v.to_bytes() for k, v in sorted(entries.items())}
    joined, keys = b"".join(values.values()), "\0".join(values).encode()
    digest = hashlib.sha256(keys + b"\0" + joined).hexdigest()[:16]
    arrays: dict[str, NDArray[Any]] = {
        "keys": np.frombuffer(keys, np.uint8),
        "ends": np.cumsum([len(value) for value in values.values()], dtype=np.int64),
        "values": np.frombuffer(joined, np.uint8),
    }
    place = Path(folder) / f"{re.sub(r'[^0-9A-Za-z]', '_', namespace)}-{digest}{SUFFIX}"
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, beside, {"kind": KIND, "namespace": namespace})
        os.replace(beside, place)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            beside.unlink()
        raise StoreError(f"The shard {place} cannot be written ({error}).") from error
    return place


def export_shards(
    store: LMDBStore,
    folder: str | Path,
    *,
    namespace: str | None = None,
    passages: int = PASSAGES,
) -> list[Path]:
    """Write all entries of a store as shards.

    Parameters
    ----------
    namespace
        Only this one; by default every namespace of passages.
    passages
        Largest number of entries of one shard.

    Raises
    ------
    StoreError
        If the store cannot be read or the folder cannot be written.
    """
    spaces = [name for name in store.namespaces() if not name.startswith(PLAIN)]
    written = []
    for name in spaces if namespace is None else [namespace]:
        keys = list(store.keys(name))
        for start in range(0, len(keys), passages):
            part = keys[start : start + passages]
            found = zip(part, store.get_bytes(name, part), strict=True)
            written.append(write_shard(folder, name, {k: v for k, v in found if v is not None}))
    return written


def read_shard(path: str | Path) -> Shard:
    """Read a shard and check all of it.

    Raises
    ------
    StoreError
        If it is truncated, damaged or something else.
    """
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("kind") != KIND or not about.get("namespace"):
                raise StoreError(f"{path} is no shard of this package; expected kind {KIND!r}.")
            keys = file.get_tensor("keys").tobytes().decode().split("\0")
            ends = [0, *file.get_tensor("ends").tolist()]
            data = file.get_tensor("values").tobytes()
        parts = [data[a:b] for a, b in pairwise(ends)]
        values = dict(zip(keys, parts, strict=True))
        for value in values.values():
            PassageEntry.from_bytes(value)
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(
            f"The shard {path} cannot be read ({error}). Write it again; nothing was imported."
        ) from error
    except StoreError as error:
        raise StoreError(f"The shard {path}: {error} Nothing was imported.") from error
    return Shard(about["namespace"], values)


def import_shards(store: LMDBStore, places: Sequence[str | Path]) -> Imported:
    """Take shards into a store. Doing it again changes nothing.

    All shards are read and checked before anything is written; each is written in one
    transaction. Entries that the store has stay, and get the scores that they lack.

    Parameters
    ----------
    places
        Files, and folders of files.

    Raises
    ------
    StoreError
        If there is no shard, or one cannot be read: then nothing is imported. If the store cannot
        be written.
    """
    files = list(_files(places))
    if not files:
        raise StoreError(f"No shards in {[str(place) for place in places]}; expected *{SUFFIX}.")
    for file in files:
        read_shard(file)
    entries = new = scored = 0
    for file in files:
        shard = read_shard(file)
        change, added = _changes(store, shard)
        store.put_bytes(shard.namespace, change)
        entries += len(shard.values)
        new += added
        scored += len(change) - added
    return Imported(len(files), entries, new, scored)


def _files(places: Sequence[str | Path]) -> Iterator[Path]:
    for place in map(Path, places):
        if place.is_dir():
            yield from sorted(p for p in place.glob(f"*{SUFFIX}") if not p.name.startswith("."))
        else:
            yield place


def _changes(store: LMDBStore, shard: Shard) -> tuple[dict[str, bytes], int]:
    """What to write, and how many of it are new."""
    change, new = {}, 0
    stored = store.get_bytes(shard.namespace, list(shard.values))
    for (key, value), have in zip(shard.values.items(), stored, strict=True):
        if have == value:
            continue
        entry = None if have is None else _sound(have)
        if entry is None:
            change[key] = value
            new += 1
            continue
        other = PassageEntry.from_bytes(value)
        if set(other.scores) - set(entry.scores):
            both = replace(entry, scores={**other.scores, **entry.scores})
            change[key] = both.to_bytes(store.vectors)
    return change, new


def _sound(data: bytes) -> PassageEntry | None:
    try:
        return PassageEntry.from_bytes(data)
    except StoreError:
        return None
