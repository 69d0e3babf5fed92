"""Who has a store open: compactions that are refused, and threads that open one path at once."""

import os
import threading
import time

import lmdb
import pytest

from refrag_rag import StoreError
from refrag_rag.store import LMDBStore, opening
from tests.store.processes import Child
from tests.store.test_stores import entry, same


def holder(path):
    """A process that has a store open until it is told to let go."""
    waiting, go = os.pipe()

    def hold(say):
        with LMDBStore(path):
            say(0)
            os.read(waiting, 1)

    child = Child(hold)
    child.first()

    def let_go():
        os.write(go, b"!")
        child.wait()

    return let_go


def is_open(folder):
    """Whether this process has a store below a folder open; other tests may have others."""
    return any(folder in (path, *path.parents) for path in opening.open_environments()._by_path)


def compacts(store):
    """Whether a store may be compacted, or is refused."""
    try:
        store.compact()
    except StoreError as error:
        if "another process" not in str(error):
            raise
        return False
    return True


def compaction(path):
    """Whether another process may compact."""

    def work(say):
        with LMDBStore(path) as store:
            say(compacts(store))

    return Child(work).wait() == [1]


def kept(path, key):
    """Whether a new process finds an entry."""

    def work(say):
        with LMDBStore(path, read_only=True) as store:
            say(store.get("a", [key])[0] is not None)

    return Child(work).wait() == [1]


def test_a_refused_compaction_leaves_the_store_open_for_others(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry()})
        let_go = holder(tmp_path)
        with pytest.raises(StoreError, match="another process"):
            store.compact()
        let_go()
        assert not compaction(tmp_path)  # this process still has it open
        store.put("a", {"y": entry(seed=1)})
        assert kept(tmp_path, "y")
        assert store.compact() >= 0
        assert same(store.get("a", ["y"])[0], entry(seed=1))


def test_both_are_refused_as_long_as_both_have_it_open(tmp_path):
    with LMDBStore(tmp_path) as store:
        let_go = holder(tmp_path)
        for _ in range(3):
            with pytest.raises(StoreError, match="another process"):
                store.compact()
            assert not compaction(tmp_path)
        store.put("a", {"y": entry(seed=1)})
        let_go()
        assert kept(tmp_path, "y")
        assert store.compact() >= 0


def test_a_write_after_a_compaction_by_others_is_not_lost(tmp_path):
    """Two processes ask for compaction in turns and write: nothing of either is lost."""

    def work(name):
        def put(say):
            with LMDBStore(tmp_path) as store:
                for number in range(40):
                    store.put("a", {f"{name}{number}": entry(seed=number)})
                    compacts(store)

        return put

    for child in [Child(work(name)) for name in "uvw"]:
        child.wait()
    with LMDBStore(tmp_path) as store:
        assert len(list(store.keys("a"))) == 120
        assert None not in store.get("a", list(store.keys("a")))


def test_threads_open_one_path_at_the_same_moment(tmp_path, monkeypatch):
    slow = lmdb.open

    def open_slowly(*arguments, **named):
        time.sleep(0.02)
        return slow(*arguments, **named)

    monkeypatch.setattr(lmdb, "open", open_slowly)
    start, opened, wrong = threading.Barrier(8), [], []

    def work(number):
        start.wait()
        try:
            store = LMDBStore(tmp_path / "store")
            store.put("a", {str(number): entry(seed=number)})
            opened.append(store)
        except Exception as error:  # whatever it is, the test must see it
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len({id(store._environment()) for store in opened}) == 1
    assert len(list(opened[0].keys("a"))) == 8
    for store in opened[1:]:
        store.close()
    assert opened[0].get("a", ["3"])[0] is not None
    opened[0].close()
    assert not is_open(tmp_path)


def test_threads_share_one_handle_of_a_closed_store(tmp_path):
    store = LMDBStore(tmp_path)
    for _ in range(5):
        store.close()
        threads = [threading.Thread(target=lambda: store.get("a", ["x"])) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.close()
    assert not is_open(tmp_path)


def test_a_child_that_was_forked_while_a_store_was_opened(tmp_path):
    environments = opening.open_environments()
    with LMDBStore(tmp_path) as store:
        with environments._lock:  # as another thread would have it

            def work(say):
                store.put("a", {"x": entry()})

            child = Child(work)
        child.wait()
        assert same(store.get("a", ["x"])[0], entry())
