"""Stores of the frameworks: their own suite on ours, and ours on theirs with faults."""

import logging

import pytest

pytest.importorskip("langchain_tests")
pytest.importorskip("llama_index.core")

from langchain_core.stores import InMemoryByteStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests
from llama_index.core.storage.kvstore import SimpleKVStore

from refrag_rag import Refrag, StoreError
from refrag_rag.langchain.stores import ByteChunkStore, LMDBByteStore
from refrag_rag.llama_index.stores import KVChunkStore
from refrag_rag.spans import wrap
from refrag_rag.store import LMDBStore
from refrag_rag.store.upkeep import collect_garbage, stat, verify
from tests.store.test_stores import entry, same


class _Values:
    @pytest.fixture
    def kv_store(self, tmp_path):
        with LMDBStore(tmp_path) as store:
            yield LMDBByteStore(store)

    @pytest.fixture
    def three_values(self):
        return b"", b"bar" * 5000, bytes(range(256))


class TestLMDBByteStore(_Values, BaseStoreSyncTests[bytes]):
    """The suite of langchain-tests."""


class TestLMDBByteStoreAsync(_Values, BaseStoreAsyncTests[bytes]):
    """The suite of langchain-tests."""


def test_bytes_of_others_and_chunk_embeddings_live_in_one_folder(tmp_path):
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry(), "y": entry(seed=1)})
        values = LMDBByteStore(tmp_path)
        values.mset([("x", b"1"), ("z", b"2")])
        assert LMDBByteStore(store, namespace="other").mget(["x"]) == [None]
        assert same(store.get("a", ["x"])[0], entry())
        assert verify(store).damaged == ()
        assert [one.namespace for one in stat(store).namespaces] == ["a", "bytes.default"]
        assert [one.removed for one in collect_garbage(store, ["x"])] == [1]
        assert values.mget(["x", "z"]) == [b"1", b"2"]
        store.put_bytes("bytes.default", {"x": b"RfrB1234garbage"})
        with pytest.raises(StoreError, match="checksum"):
            values.mget(["x"])
        assert [one.key for one in verify(store).damaged] == ["x"]
        values._store.close()


PASSAGE = "The Aru flows north. It is 900 km long. Its name means river. " * 2
PROMPT = f"{wrap(PASSAGE)} How long is it?"


@pytest.fixture(params=["byte store", "key-value store"])
def shared(request):
    """A store of a framework, and the mapping that really holds its values."""
    if request.param == "byte store":
        return lambda: ByteChunkStore(backing), (backing := InMemoryByteStore()).store
    simple = SimpleKVStore()
    return lambda: KVChunkStore(simple), _Collection(simple)


class _Collection:
    """The one collection with entries, as a mapping of bytes-like values."""

    def __init__(self, store):
        self._store = store

    def _mapping(self):
        data = self._store._collections_mappings
        return data[next(name for name in data if name != "refrag")]

    def __iter__(self):
        return iter(dict(self._mapping()))

    def __getitem__(self, key):
        return self._mapping()[key]

    def __setitem__(self, key, value):
        self._mapping()[key] = value


def test_two_engines_share_a_store(model, shared):
    make, _ = shared
    first, second = Refrag(model, store=make()), Refrag(model, store=make())
    first.precompute([PASSAGE])
    answer = second.generate(PROMPT, max_new_tokens=4)
    assert (answer.counts.cache_hits, answer.counts.cache_misses) == (1, 0)
    assert answer.text == Refrag(model).generate(PROMPT, max_new_tokens=4).text
    assert second.forget([PASSAGE]) == 1
    assert first.store.namespaces() == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"garbage" * 99,
        "text",
        7,
        {"entry": "%%%"},
        {"entry": 3},
        {"other": 1},
        [],
        "cut",
        "bit",
    ],
)
def test_garbage_is_a_miss_and_never_a_wrong_vector(model, shared, caplog, garbage):
    make, values = shared
    engine = Refrag(model, store=make())
    engine.precompute([PASSAGE])
    expected = engine.generate(PROMPT, max_new_tokens=4).text
    (key,) = values
    given = values[key]
    if garbage in ("cut", "bit") and isinstance(garbage, str):
        garbage = changed(given, garbage)
    elif isinstance(given, dict) and not isinstance(garbage, dict):
        garbage = {"entry": garbage}
    values[key] = garbage
    with caplog.at_level(logging.WARNING, "refrag_rag"):
        answer = Refrag(model, store=make()).generate(PROMPT, max_new_tokens=4)
    assert (answer.counts.cache_hits, answer.counts.cache_misses) == (0, 1)
    assert answer.text == expected
    assert "counts as missing" in caplog.text
    assert values[key] == given  # made anew and kept


def changed(value, how):
    if isinstance(value, dict):
        text = value["entry"]
        return {"entry": text[:-8] if how == "cut" else text[:200] + "AAAA" + text[204:]}
    return value[:-5] if how == "cut" else value[:200] + b"AAAA" + value[204:]


def test_a_value_of_another_passage_is_a_miss(model, shared):
    make, values = shared
    engine = Refrag(model, store=make())
    engine.precompute([PASSAGE, "Another passage, of another thing."])
    one, other = values
    values[one] = values[other]
    found = engine.store.get(engine.namespace, [key.rpartition("/")[2] for key in (one, other)])
    assert [entry is None for entry in found] == [True, False]


def test_a_store_that_fails_is_an_error_of_our_own():
    class Broken(InMemoryByteStore):
        def mget(self, keys):
            raise ConnectionError("no route")

    class Short(InMemoryByteStore):
        def mget(self, keys):
            return []

    class BrokenKV(SimpleKVStore):
        def get(self, key, collection="data"):
            raise ConnectionError("no route")

    for store in (ByteChunkStore(Broken()), KVChunkStore(BrokenKV())):
        with pytest.raises(StoreError, match="no route"):
            store.get("a", ["x"])
    with pytest.raises(StoreError, match="0 values for 1 keys"):
        ByteChunkStore(Short()).get("a", ["x"])
