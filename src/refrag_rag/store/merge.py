"""Stores merged into one: LMDB has one writer at a time and one machine, so others write their own.

To carry a store about, copy its folder.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from refrag_rag.store.entry import read_sizes, sound_entry
from refrag_rag.store.lmdb import AT_ONCE, LMDBStore


@dataclass(frozen=True)
class Merged:
    """What a merge found and did.

    Attributes
    ----------
    stores, entries
        That were read.
    new
        Entries that the store had not, or had damaged.
    scored
        Entries that the store had without some scores, and now has with them.
    damaged
        Entries that were left out.
    """

    stores: int
    entries: int = 0
    new: int = 0
    scored: int = 0
    damaged: int = 0


def merge_stores(store: LMDBStore, folders: Sequence[str | Path]) -> Merged:
    """Put the entries of other stores into a store. Doing it again changes nothing.

    Entries that the store has stay, and get the scores that they lack. Bytes are kept as they are,
    in whatever format.

    Parameters
    ----------
    folders
        Of stores on disk. Each is opened once before anything is written.

    Raises
    ------
    StoreError
        If a folder is no store or is truncated: then nothing is written. If the store cannot be
        written.
    """
    for folder in folders:
        with LMDBStore(folder, read_only=True) as other:
            other.namespaces()  # a database of something else is refused
    done: Counter[str] = Counter()
    for folder in folders:
        with LMDBStore(folder, read_only=True) as other:
            for namespace in other.namespaces():
                left = other.keys(namespace)
                while keys := list(islice(left, AT_ONCE)):
                    done += _put(store, other, namespace, keys)
    return Merged(len(folders), **done)


def _put(store: LMDBStore, other: LMDBStore, namespace: str, keys: list[str]) -> Counter[str]:
    """Write what the store lacks; counts by the names in `Merged`."""
    done: Counter[str] = Counter()
    change: dict[str, bytes] = {}
    stored, found = store.get_bytes(namespace, keys), other.get_bytes(namespace, keys)
    for key, have, value in zip(keys, stored, found, strict=True):
        if value is None:  # deleted meanwhile
            continue
        done["entries"] += 1
        theirs = sound_entry(value, f"{other.path}: {namespace}/{key}")
        ours = sound_entry(have, f"{store.path}: {namespace}/{key}")
        if theirs is None:
            done["damaged"] += 1
        elif have is None or ours is None:
            done["new"] += 1
            change[key] = value
        elif theirs.scores.keys() - ours.scores.keys():
            done["scored"] += 1
            both = replace(ours, scores={**theirs.scores, **ours.scores})
            change[key] = both.to_bytes(read_sizes(have)[0])  # in the format that it is kept in
    store.put_bytes(namespace, change)
    return done
