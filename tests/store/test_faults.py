"""Killed processes, several at once, full disks, and files that are not what they should be."""

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time

import lmdb
import pytest

from refrag_rag import StoreError
from refrag_rag.store import LMDBStore, passage_key
from refrag_rag.store.environment import Environment
from refrag_rag.store.upkeep import verify
from tests.store.processes import Child
from tests.store.test_stores import entry, same

GROUP = 12


def group(number):
    """Entries that are written together; some fill pages of their own, some do not."""
    return {
        f"{number}-{i}": entry(chunks=1 + 7 * (i % 6), width=64, seed=100 * number + i)
        for i in range(GROUP)
    }


def write_on(path, first):
    def work(say):
        store = LMDBStore(path, map_size=1 << 18)
        number = first
        while True:
            store.put("a", group(number))
            say(number)
            number += 1

    return work


def put_groups(store, numbers, say):
    for number in numbers:
        store.put("a", group(number))
        say(number)


def delete_and_compact(path, numbers):
    def work(say):
        store = LMDBStore(path)
        for number in numbers:
            store.delete("a", list(group(number)))
            say(number)
            store.compact()
            store.put("a", group(number))
            say(number)

    return work


def whole_groups(path):
    """Numbers of the groups in a store; each must be whole and sound."""
    with LMDBStore(path) as store:
        found = verify(store)
        assert found.damaged == ()
        keys = list(store.keys("a"))
        assert found.entries == len(keys)
        numbers = {int(key.split("-")[0]) for key in keys}
        assert sorted(key for number in numbers for key in group(number)) == keys
        some = group(max(numbers, default=0))
        for got, expected in zip(store.get("a", list(some)), some.values(), strict=True):
            assert got is None or same(got, expected)
    return numbers


def kill_at_random_moments(path, rounds, seed):
    rng = random.Random(seed)
    acknowledged = set()
    for number in range(rounds):
        child = Child(write_on(path, 1000 * number))
        child.first()
        time.sleep(rng.random() * 0.02)
        acknowledged |= set(child.kill())
        assert acknowledged <= whole_groups(path) | {1000 * number}
    return acknowledged


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path, rounds):
    kill_at_random_moments(tmp_path, rounds, seed=1)
    assert len(whole_groups(tmp_path)) >= rounds


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_a_killed_compaction_changes_nothing(tmp_path, rounds):
    numbers, rng = list(range(1, 9)), random.Random(2)
    with LMDBStore(tmp_path) as store:
        for number in numbers:
            store.put("a", group(number))
    for _ in range(rounds):
        child = Child(delete_and_compact(tmp_path, numbers))
        child.first()
        time.sleep(rng.random() * 0.03)
        child.kill()
        there = whole_groups(tmp_path)
        assert len(there) >= len(numbers) - 1  # one may have been deleted when it was killed
        with LMDBStore(tmp_path) as store:
            for number in set(numbers) - there:
                store.put("a", group(number))
    with LMDBStore(tmp_path) as store:
        store.compact()
    assert whole_groups(tmp_path) == set(numbers)
    assert {place.name for place in tmp_path.iterdir()} == {"data.mdb", "in-use", "lock.mdb"}


def test_two_writers_take_turns(tmp_path):
    def work(first):
        def put(say):
            with LMDBStore(tmp_path, map_size=1 << 18) as store:
                for number in range(first, first + 25):
                    store.put("a", group(number))

        return put

    children = [Child(work(first)) for first in (0, 100)]
    for child in children:
        child.wait()
    assert whole_groups(tmp_path) == {*range(25), *range(100, 125)}


def test_a_reader_sees_all_of_a_group_or_nothing_while_it_is_deleted(tmp_path):
    def work(say):
        with LMDBStore(tmp_path) as store:
            while True:
                store.put("a", group(1))
                store.delete("a", list(group(1)))
                say(1)

    child = Child(work)
    child.first()
    seen = set()
    with LMDBStore(tmp_path) as store:
        for _ in range(200):
            found = store.get("a", list(group(1)))
            seen.add(sum(one is not None for one in found))
            assert all(
                one is None or same(one, made)
                for one, made in zip(found, group(1).values(), strict=True)
            )
    child.kill()
    assert seen <= {0, GROUP}


def test_threads_read_while_the_map_grows_and_the_file_is_compacted(tmp_path):
    store = LMDBStore(tmp_path, map_size=1 << 18)
    store.put("a", group(1))
    expected = [one.to_bytes() for one in group(1).values()]
    wrong, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                found = store.get("a", list(group(1)))
                if [one.to_bytes() for one in found] != expected:
                    wrong.append("other bytes")
            except Exception as error:  # whatever it is, the test must see it
                wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 14):
        store.put("a", group(number))
        if number % 4 == 0:
            store.compact()
    done.set()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    assert whole_groups(tmp_path) == set(range(1, 14))


def test_a_full_disk_leaves_what_was_there(tmp_path):
    def work(say):
        store = LMDBStore(tmp_path)
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
        with pytest.raises(StoreError, match="cannot be written"):
            put_groups(store, range(1000), say)
        assert None not in store.get("a", list(group(0)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        store.put("a", group(1000))  # the same handle goes on
        say(1000)
        store.close()

    acknowledged = Child(work).wait()
    assert acknowledged
    assert whole_groups(tmp_path) == set(acknowledged)
    with LMDBStore(tmp_path) as store:
        store.put("a", group(2000))
    assert whole_groups(tmp_path) == {*acknowledged, 2000}


def test_a_disk_too_full_to_compact(tmp_path):
    with LMDBStore(tmp_path) as store:
        for number in range(20):
            store.put("a", group(number))
        store.delete("a", list(group(3)))

    def work(say):
        store = LMDBStore(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with pytest.raises(StoreError, match=r"cannot be compacted .* Nothing was changed"):
            store.compact()
        assert store.get("a", list(group(4)))[0] is not None
        store.close()

    Child(work).wait()
    assert whole_groups(tmp_path) == set(range(20)) - {3}
    assert not (tmp_path / "compacting").exists()


FULL = """
import sys
from refrag_rag import StoreError
from refrag_rag.store import LMDBStore
from tests.store.test_faults import group, whole_groups

done = []
with LMDBStore(sys.argv[1]) as store:
    try:
        for number in range(1000):
            store.put("a", group(number))
            done.append(number)
    except StoreError as error:
        print(error)
assert len(done) > 3
assert whole_groups(sys.argv[1]) == set(done)
"""


@pytest.mark.slow
def test_a_file_system_without_room(tmp_path):
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("mounting a small file system needs root")
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = (
        f'mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -c "$CODE" {tmp_path}'
    )
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CODE": FULL},
    )
    assert run.returncode == 0, run.stderr
    assert "Is the disk full?" in run.stdout


def filled(path):
    with LMDBStore(path) as store:
        for number in range(6):
            store.put("a", group(number))
    return path / "data.mdb"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_file_is_refused(tmp_path, share):
    file = filled(tmp_path)
    length = int(file.stat().st_size * share)
    os.truncate(file, length)
    for read_only in (True, False, False):
        with pytest.raises(StoreError, match=r"is truncated: \d+ bytes are missing"):
            LMDBStore(tmp_path, read_only=read_only)
    assert file.stat().st_size == length


def test_a_file_truncated_anywhere_is_refused_or_whole(tmp_path):
    """Whatever page is lost, of values, of keys or of free pages: no crash, no lost entry."""
    file = filled(tmp_path / "whole")
    with LMDBStore(tmp_path / "whole") as store:
        store.delete("a", list(group(2)))
        keys = list(store.keys("a"))
    size, outcomes = file.stat().st_size, set()
    for length in range(2 * 4096, size, 4096):
        path = tmp_path / str(length)
        shutil.copytree(tmp_path / "whole", path)
        os.truncate(path / "data.mdb", length + 100)

        def work(say, path=path):
            try:
                store = LMDBStore(path)
            except StoreError:
                say(0)
                return
            assert list(store.keys("a")) == keys
            assert verify(store).damaged == ()
            store.put("a", group(3000))
            assert verify(store).damaged == ()
            say(1)

        outcomes |= {(length > size / 2, one) for one in Child(work).wait()}
    assert (False, 0) in outcomes
    assert (False, 1) not in outcomes


@pytest.mark.parametrize("length", [100, 5000])
def test_a_file_without_its_first_pages_is_refused(tmp_path, length):
    os.truncate(filled(tmp_path), length)
    with pytest.raises(StoreError):
        LMDBStore(tmp_path)


def test_a_file_that_is_shorter_by_unused_pages_opens(tmp_path, monkeypatch):
    """LMDB leaves pages at the end unwritten that a transaction took and gave back."""
    monkeypatch.setattr(Environment, "lengthen", lambda self: None)
    rng, living, number = random.Random(3), [], 0
    with LMDBStore(tmp_path) as store:
        while not store._environment().shortfall():
            assert number < 90_000
            for size in (300, 300, 300):
                keys = [passage_key(str(number + i)) for i in range(size)]
                store.put("a", {key: entry(chunks=9) for key in keys})
                living, number = living + keys, number + size
            for share in (0.5, 0.9):
                rng.shuffle(living)
                gone = int(share * len(living))
                store.delete("a", living[:gone])
                living = living[gone:]
    monkeypatch.undo()
    with LMDBStore(tmp_path) as store:
        assert list(store.keys("a")) == sorted(living)
        assert verify(store).damaged == ()
        assert not store._environment().shortfall()


def test_a_database_of_others_is_not_taken_for_a_store(tmp_path):
    database = lmdb.open(str(tmp_path))
    with database.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    database.close()
    with LMDBStore(tmp_path) as store:
        with pytest.raises(StoreError, match="not of this package"):
            store.namespaces()
        assert [one.reason for one in verify(store).damaged] != []
