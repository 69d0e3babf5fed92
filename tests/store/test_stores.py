"""Every store: the common behaviour."""

import numpy as np
import pytest

from refrag_rag import StoreError
from refrag_rag.store import (
    KeyValueChunkStore,
    LMDBStore,
    MemoryStore,
    PassageEntry,
    open_store,
    passage_key,
)


def entry(chunks=3, width=16, seed=0, **scores):
    rng = np.random.default_rng(seed)
    return PassageEntry(
        embeddings=rng.normal(size=(chunks, width)).astype(np.float16),
        token_ids=rng.integers(0, 99, 4 * chunks).astype(np.int32),
        chunk_lengths=np.full(chunks, 4, np.int32),
        char_ends=np.arange(1, chunks + 1, dtype=np.int32) * 9,
        scores=scores,
    )


def same(one, other):
    return one.to_bytes() == other.to_bytes()


def byte_store(path):
    pytest.importorskip("langchain_classic")
    from langchain_classic.storage import LocalFileStore

    return KeyValueChunkStore.from_langchain(LocalFileStore(path))


def key_value_store(_path):
    pytest.importorskip("llama_index.core")
    from llama_index.core.storage.kvstore import SimpleKVStore

    return KeyValueChunkStore.from_llama_index(SimpleKVStore())


STORES = {
    "memory": lambda path: MemoryStore(),
    "lmdb": LMDBStore,
    "byte store": byte_store,
    "key-value store": key_value_store,
}


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    made = STORES[request.param](tmp_path / "store")
    yield made
    made.close()


def test_what_is_put_is_got_byte_for_byte(store):
    first = entry(score=np.array([1, 2, 3], np.float32))
    store.put("a", {"x": first, "y": entry(seed=1)})
    got = store.get("a", ["y", "none", "x"])
    assert got[1] is None
    assert same(got[2], first)
    assert same(got[0], entry(seed=1))
    assert got[2].scores["score"].tolist() == [1, 2, 3]


def test_contains_answers_in_the_order_of_the_keys(store):
    store.put("a", {"x": entry(), "y": entry(seed=1)})
    assert store.contains("a", ["y", "none", "x", "y"]) == [True, False, True, True]
    assert store.contains("b", ["x"]) == [False]
    assert store.contains("a", []) == []
    assert store.read_only is False
    store.delete("a", ["x"])
    assert store.contains("a", ["x", "y"]) == [False, True]


def test_namespaces_do_not_see_each_other(store):
    store.put("a", {"x": entry()})
    store.put("ab", {"x": entry(seed=1), "w": entry(seed=2)})
    assert store.namespaces() == ["a", "ab"]
    assert list(store.keys("a")) == ["x"]
    assert list(store.keys("ab")) == ["w", "x"]
    assert list(store.keys("b")) == []
    assert store.get("b", ["x"]) == [None]


def test_delete_counts_and_forgets(store):
    store.put("a", {"x": entry(), "y": entry()})
    assert store.delete("a", ["x", "none"]) == 1
    assert store.get("a", ["x"]) == [None]
    assert store.delete("a", ["y"]) == 1
    assert store.namespaces() == []


def test_put_replaces(store):
    store.put("a", {"x": entry()})
    store.put("a", {"x": entry(seed=5)})
    assert same(store.get("a", ["x"])[0], entry(seed=5))


def test_nothing_put_and_nothing_asked(store):
    store.put("a", {})
    assert store.get("a", []) == []
    assert store.namespaces() == []


def test_closing_twice_does_nothing(tmp_path):
    store = LMDBStore(tmp_path)
    other = LMDBStore(tmp_path)
    store.close()
    store.close()
    assert other.get("a", ["x"]) == [None]
    other.close()


def test_an_empty_passage_keeps_its_width(store):
    store.put("a", {"x": entry(chunks=0)})
    assert store.get("a", ["x"])[0].embeddings.shape == (0, 16)


def test_shapes_that_do_not_fit_are_refused():
    good = entry()
    with pytest.raises(StoreError, match="expected"):
        PassageEntry(good.embeddings[:2], good.token_ids, good.chunk_lengths, good.char_ends)
    with pytest.raises(StoreError, match="float16"):
        PassageEntry(
            good.embeddings.astype(np.float64), good.token_ids, good.chunk_lengths, good.char_ends
        )


def test_damaged_bytes_are_an_error_of_our_own():
    with pytest.raises(StoreError, match="damaged"):
        PassageEntry.from_bytes(entry().to_bytes()[:40])


def test_keys_depend_on_every_character():
    assert passage_key("a") != passage_key("a ")
    assert len(passage_key("\ud800")) == 64  # a lone surrogate has a key too


def test_open_store_chooses_by_path(tmp_path):
    assert isinstance(open_store(None), MemoryStore)
    with open_store(tmp_path / "s") as store:
        assert isinstance(store, LMDBStore)
