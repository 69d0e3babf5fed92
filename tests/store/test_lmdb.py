"""LMDB's own rules, each with real processes."""

import gc
import os

import numpy as np
import pytest

from refrag_rag import StoreError
from refrag_rag.store import LMDBStore
from tests.store.processes import Child
from tests.store.test_stores import entry, same


def test_two_handles_of_one_path_share_an_environment(tmp_path):
    first, second = LMDBStore(tmp_path), LMDBStore(tmp_path)
    first.put("a", {"x": entry()})
    assert second.get("a", ["x"])[0] is not None
    first.close()
    assert second.get("a", ["x"])[0] is not None
    second.close()


def test_another_process_reads_what_was_written(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry(seed=4)})

        def read(say):
            with LMDBStore(tmp_path, read_only=True) as mine:
                say(same(mine.get("a", ["x"])[0], entry(seed=4)))

        assert Child(read).wait() == [True]


def test_a_forked_child_opens_anew(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        pid = os.fork()
        if not pid:
            status = 1
            try:
                store.put("a", {"child": entry(seed=9)})
                status = 0 if store.get("a", ["x"])[0] is not None else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert same(store.get("a", ["child"])[0], entry(seed=9))


def test_arrays_survive_later_writes(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        got = store.get("a", ["x"])[0]
        before = got.embeddings.copy()
        store.put("a", {f"y{i}": entry(seed=i) for i in range(200)})
        store.delete("a", ["x"])
        store.put("a", {f"z{i}": entry(seed=i) for i in range(200)})
        gc.collect()
        np.testing.assert_array_equal(got.embeddings, before)


def test_the_map_grows_by_itself_also_for_other_processes(tmp_path):
    with LMDBStore(tmp_path, map_size=1 << 18) as store:
        store.put("a", {"first": entry()})
        waiting, go = os.pipe()

        def read(say):
            with LMDBStore(tmp_path, map_size=1 << 18) as mine:
                mine.get("a", ["first"])
                say(0)
                os.read(waiting, 1)
                say(sum(one is not None for one in mine.get("a", [f"k{i}" for i in range(60)])))

        reader = Child(read)
        assert reader.first() == b"0\n"
        for i in range(60):
            store.put("a", {f"k{i}": entry(chunks=64, width=256, seed=i)})
        assert (tmp_path / "data.mdb").stat().st_size > 1 << 18
        os.write(go, b"!")
        assert reader.wait() == [60]


def test_one_put_larger_than_the_map(tmp_path):
    with LMDBStore(tmp_path, map_size=1 << 17) as store:
        store.put("a", {f"k{i}": entry(chunks=64, width=256, seed=i) for i in range(40)})
        assert len(list(store.keys("a"))) == 40


def test_compaction_removes_deleted_bytes(tmp_path):
    secret = entry(chunks=64, width=256, seed=77)
    with LMDBStore(tmp_path) as store, LMDBStore(tmp_path) as other:
        store.put("a", {"secret": secret, "kept": entry()})
        store.delete("a", ["secret"])
        needle = secret.embeddings.tobytes()[:64]
        assert needle in (tmp_path / "data.mdb").read_bytes()
        assert store.compact() > 0
        assert needle not in (tmp_path / "data.mdb").read_bytes()
        assert same(other.get("a", ["kept"])[0], entry())
        other.put("a", {"new": entry(seed=2)})
        assert same(store.get("a", ["new"])[0], entry(seed=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.mdb", "in-use", "lock.mdb"]


def test_a_read_only_store_writes_nothing(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
    with LMDBStore(tmp_path, read_only=True) as store:
        assert store.get("a", ["x"])[0] is not None
        for attempt in (lambda: store.put("a", {"y": entry()}), store.compact):
            with pytest.raises(StoreError, match="read-only"):
                attempt()


def test_paths_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="Choose another path"):
        LMDBStore(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match="cannot be opened"):
        LMDBStore(tmp_path / "absent", read_only=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_damaged_file_is_an_error_of_our_own(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="cannot be opened"):
        LMDBStore(tmp_path)


def test_keys_that_lmdb_cannot_hold(tmp_path):
    with LMDBStore(tmp_path) as store:
        with pytest.raises(StoreError, match="511"):
            store.put("a", {"x" * 600: entry()})
        with pytest.raises(StoreError, match="expected"):
            store.put("a/b", {"x": entry()})


@pytest.mark.parametrize("asked", [None, True, False])
def test_the_kernel_reads_ahead_only_when_asked(tmp_path, asked):
    named = {} if asked is None else {"read_ahead": asked}
    with LMDBStore(tmp_path, **named) as store:
        assert store._environment().db.flags()["readahead"] is bool(asked)
