"""Stores merged into one: LMDB has one writer at a time and one machine, so others write their own.

To carry a store about, copy its folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from refrag_rag.store.entry import PassageEntry, sound_entry
from refrag_rag.store.layout import read_header
from refrag_rag.store.lmdb import LMDBStore

AT_ONCE = 1000


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
    entries: int
    new: int
    scored: int
    damaged: int


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
    done = Merged(len(folders), 0, 0, 0, 0)
    for folder in folders:
        with LMDBStore(folder, read_only=True) as other:
            other.namespaces()  # a database of something else is refused
    for folder in folders:
        for namespace, values in _parts(folder):
            change, new, damaged = _changes(store, namespace, values)
            store.put_bytes(namespace, change)
            done = replace(
                done,
                entries=done.entries + len(values),
                new=done.new + new,
                scored=done.scored + len(change) - new,
                damaged=done.damaged + damaged,
            )
    return done


def _parts(folder: str | Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    with LMDBStore(folder, read_only=True) as store:
        for namespace in store.namespaces():
            left = store.keys(namespace)
            while keys := list(islice(left, AT_ONCE)):
                found = zip(keys, store.get_bytes(namespace, keys), strict=True)
                yield namespace, {key: value for key, value in found if value is not None}


def _changes(
    store: LMDBStore, namespace: str, values: Mapping[str, bytes]
) -> tuple[dict[str, bytes], int, int]:
    """What to write, how many of it are new, and how many of the others' are damaged."""
    change, new, damaged = {}, 0, 0
    stored = store.get_bytes(namespace, list(values))
    for (key, value), have in zip(values.items(), stored, strict=True):
        theirs, address = sound_entry(value, f"{namespace}/{key}"), f"{store.path}: {key}"
        if theirs is None:
            damaged += 1
            continue
        ours = sound_entry(have, address)
        if have is None or ours is None:
            change[key] = value
            new += 1
        elif theirs.scores.keys() - ours.scores.keys():
            change[key] = _scored(have, ours, theirs)
    return change, new, damaged


def _scored(have: bytes, ours: PassageEntry, theirs: PassageEntry) -> bytes:
    """Our entry with the scores that only theirs has, in the format that it is kept in."""
    both = replace(ours, scores={**theirs.scores, **ours.scores})
    return both.to_bytes(read_header(have).format.name)
