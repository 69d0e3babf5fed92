"""Chunk embeddings in the stores of the frameworks, with faults."""

import logging

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from langchain_core.stores import InMemoryByteStore
from llama_index.core.storage.kvstore import SimpleKVStore

from refrag_rag import Refrag, StoreError
from refrag_rag.spans import wrap
from refrag_rag.store import KeyValueChunkStore
from tests.store.test_stores import entry, same

PASSAGE = "The Aru flows north. It is 900 km long. Its name means river. " * 2
PROMPT = f"{wrap(PASSAGE)} How long is it?"


@pytest.fixture(params=["byte store", "key-value store"])
def shared(request):
    """A store of a framework, and the mapping that really holds its values."""
    if request.param == "byte store":
        backing = InMemoryByteStore()
        return lambda: KeyValueChunkStore.from_langchain(backing), backing.store
    simple = SimpleKVStore()
    return lambda: KeyValueChunkStore.from_llama_index(simple), _Collection(simple)


class _Collection:
    """Our collection, as a mapping."""

    def __init__(self, store):
        self._store = store

    def _mapping(self):
        return self._store._collections_mappings["refrag"]

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

    for store in (
        KeyValueChunkStore.from_langchain(Broken()),
        KeyValueChunkStore.from_llama_index(BrokenKV()),
    ):
        with pytest.raises(StoreError, match="no route"):
            store.get("a", ["x"])
    with pytest.raises(StoreError, match="0 values for 1 keys"):
        KeyValueChunkStore.from_langchain(Short()).get("a", ["x"])


def test_keys_of_others_are_left_alone():
    backing = InMemoryByteStore()
    backing.mset([("theirs", b"1"), ("refraga", b"2")])
    store = KeyValueChunkStore.from_langchain(backing)
    store.put("a", {"x": entry()})
    assert (store.namespaces(), list(store.keys("a"))) == (["a"], ["x"])
    assert store.delete("a", ["x"]) == 1
    assert sorted(backing.store) == ["refraga", "theirs"]


def test_any_four_functions_will_do():
    values = {}
    store = KeyValueChunkStore(
        get=lambda keys: map(values.get, keys),
        set=values.update,
        delete=lambda keys: [values.pop(key) for key in keys],
        keys=lambda: values,
    )
    store.put("a", {"x": entry()})
    assert list(values) == ["refrag/a/x"]
    assert same(store.get("a", ["x"])[0], entry())
    assert store.contains("a", ["x", "y"]) == [True, False]
    assert store.delete("a", ["x", "y"]) == 1
    assert not values
