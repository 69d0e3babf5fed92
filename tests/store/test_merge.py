"""Stores of several workers, put into one."""

import os
import shutil

import lmdb
import numpy as np
import pytest

from refrag_rag import StoreError
from refrag_rag.cli import main
from refrag_rag.store import LMDBStore
from refrag_rag.store.merge import merge_stores
from tests.store.test_stores import entry


def filled(path, seeds, **settings):
    with LMDBStore(path, **settings) as store:
        store.put("a", {f"k{seed}": entry(seed=seed) for seed in seeds})
    return path


def contents(path):
    with LMDBStore(path) as store:
        return {
            name: dict(zip(keys, store.get_bytes(name, keys), strict=True))
            for name in store.namespaces()
            for keys in [list(store.keys(name))]
        }


def test_a_store_is_merged_byte_for_byte(tmp_path, capsys):
    source = filled(tmp_path / "source", range(10))
    with LMDBStore(source, format="int8") as store:
        store.put("b", {"x": entry(seed=1)})
    target = str(tmp_path / "target")
    assert main(["store", "merge", target, str(source)]) == 0
    assert "11 entries in 1 stores: 11 new, 0 scored, 0 damaged" in capsys.readouterr().out
    assert contents(target) == contents(source)
    assert main(["store", "merge", target, str(source)]) == 0
    assert "11 entries in 1 stores: 0 new" in capsys.readouterr().out
    assert contents(target) == contents(source)


def test_a_copied_folder_is_a_store(tmp_path):
    source = filled(tmp_path / "source", range(10))
    shutil.copytree(source, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(source)


def test_stores_of_several_workers_merge(tmp_path, monkeypatch):
    monkeypatch.setattr("refrag_rag.store.merge.AT_ONCE", 3)
    parts = [range(0, 5), range(3, 8), range(8, 10)]
    workers = [filled(tmp_path / f"worker{n}", part) for n, part in enumerate(parts)]
    with LMDBStore(tmp_path / "all") as store:
        done = merge_stores(store, workers)
        assert (done.stores, done.entries, done.new) == (3, 12, 10)
    assert contents(tmp_path / "all") == contents(filled(tmp_path / "one", range(10)))


def test_stored_entries_stay_and_get_missing_scores(tmp_path):
    mine = entry(seed=1, here=np.ones(3, np.float32))
    theirs = entry(seed=2, here=np.zeros(3, np.float32), there=np.zeros(3, np.float32))
    with LMDBStore(tmp_path / "theirs") as store:
        store.put("a", {"x": theirs})
    with LMDBStore(tmp_path / "store", format="int8") as store:
        store.put("a", {"x": mine})
    with LMDBStore(tmp_path / "store") as store:  # whose format is another now
        before = store.get("a", ["x"])[0]
        done = merge_stores(store, [tmp_path / "theirs"])
        assert (done.new, done.scored) == (0, 1)
        got = store.get("a", ["x"])[0]
        assert merge_stores(store, [tmp_path / "theirs"]).scored == 0
        assert b"int8" in store.get_bytes("a", ["x"])[0]
    np.testing.assert_array_equal(got.embeddings, before.embeddings)
    assert {name: values.tolist() for name, values in got.scores.items()} == {
        "here": [1, 1, 1],
        "there": [0, 0, 0],
    }


@pytest.mark.parametrize("fault", ["cut", "foreign", "nothing", "another file"])
def test_one_bad_store_and_nothing_is_written(tmp_path, fault, capsys):
    good, bad = filled(tmp_path / "good", range(300)), tmp_path / "bad"
    if fault == "cut":
        filled(bad, range(300))
        os.truncate(bad / "data.mdb", (bad / "data.mdb").stat().st_size // 2)
    if fault == "foreign":
        filled(bad, range(1))
        with lmdb.open(str(bad)) as database, database.begin(write=True) as transaction:
            transaction.put(b"key", b"value")
    if fault == "another file":
        bad.write_text("text")
    with LMDBStore(tmp_path / "store") as store:
        with pytest.raises(StoreError, match="bad"):
            merge_stores(store, [good, bad])
        assert store.namespaces() == []
    if fault != "foreign":
        assert main(["store", "merge", str(tmp_path / "new"), str(good), str(bad)]) == 1
        assert "bad" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_a_merge_into_itself_changes_nothing(tmp_path):
    path = filled(tmp_path / "store", range(5))
    before = contents(path)
    with LMDBStore(path) as store:
        assert merge_stores(store, [path]).new == 0
    assert contents(path) == before
