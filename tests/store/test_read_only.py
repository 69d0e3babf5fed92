"""Stores that were opened to read: what writes beside them, and engines over them."""

import logging
import os

import lmdb
import pytest

from refrag_rag import Refrag, StoreError
from refrag_rag.engine.extract import extract
from refrag_rag.spans import wrap
from refrag_rag.store import LMDBStore
from tests.store.processes import Child
from tests.store.test_stores import entry, same

PASSAGES = [
    "The Aru flows north. It is 900 km long. Its name means river. " * 2,
    "Mount Tarsk is 2,310 metres high. It was climbed in 1871. " * 2,
]
PROMPT = f"{wrap(PASSAGES[0])} {wrap(PASSAGES[1])} How long is it?"


@pytest.fixture
def path(tmp_path):
    with LMDBStore(tmp_path / "store") as store:
        store.put("a", {"x": entry()})
    return tmp_path / "store"


def test_a_handle_that_writes_is_not_held_back_by_one_that_reads(path):
    with LMDBStore(path, read_only=True) as reader:
        with LMDBStore(path) as writer:
            writer.put("a", {"y": entry(seed=1)})
            assert same(reader.get("a", ["y"])[0], entry(seed=1))
            for attempt in (lambda: reader.put("a", {"z": entry()}), reader.compact):
                with pytest.raises(StoreError, match="read-only"):
                    attempt()
        assert same(reader.get("a", ["y"])[0], entry(seed=1))
        with LMDBStore(path) as again:
            assert again.delete("a", ["x"]) == 1
            assert again.compact() >= 0
        assert reader.contains("a", ["x", "y"]) == [False, True]


def test_a_forked_child_writes_beside_a_reader(path):
    with LMDBStore(path, read_only=True) as reader, LMDBStore(path) as writer:

        def work(say):
            say(reader.contains("a", ["x"])[0])  # opens to read, first
            writer.put("a", {"child": entry(seed=3)})

        assert Child(work).wait() == [1]
        assert same(reader.get("a", ["child"])[0], entry(seed=3))


def test_others_see_a_store_that_became_writable_as_open(path):
    def compact(say):
        with LMDBStore(path) as mine, pytest.raises(StoreError, match="another process"):
            mine.compact()

    with LMDBStore(path, read_only=True), LMDBStore(path) as writer:
        Child(compact).wait()
        writer.put("a", {"y": entry(seed=1)})
    Child(lambda say: LMDBStore(path).compact()).wait()
    with LMDBStore(path) as store:
        assert store.contains("a", ["x", "y"]) == [True, True]


def test_a_place_that_cannot_be_written_stays_open_to_read(path, monkeypatch):
    real = lmdb.open

    def refuse(*arguments, readonly, **named):
        if not readonly:
            raise lmdb.ReadonlyError("Permission denied")
        return real(*arguments, readonly=readonly, **named)

    with LMDBStore(path, read_only=True) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", refuse)
            with pytest.raises(StoreError, match="can be written"):
                LMDBStore(path)
            assert reader.get("a", ["x"])[0] is not None
        with LMDBStore(path) as writer:
            assert writer.delete("a", ["x"]) == 1


@pytest.fixture
def engine(model, tmp_path):
    """An engine over a read-only store that has the first passage."""
    with LMDBStore(tmp_path / "vectors") as store:
        Refrag(model, store=store).precompute(PASSAGES[:1])
    with LMDBStore(tmp_path / "vectors", read_only=True) as store:
        yield Refrag(model, store=store)


def test_an_engine_reads_what_is_there_and_encodes_the_rest(engine, model, caplog):
    with caplog.at_level(logging.WARNING, "refrag_rag"):
        report = engine.precompute(PASSAGES)
    assert (report.passages, report.hits, report.encoded) == (2, 1, 0)
    assert "read-only and has not 1 passages" in caplog.text
    answer = engine.generate(PROMPT, max_new_tokens=4)
    assert (answer.counts.cache_hits, answer.counts.cache_misses) == (1, 1)
    assert answer.text == Refrag(model).generate(PROMPT, max_new_tokens=4).text


def test_scores_that_cannot_be_kept_are_computed_for_the_answer(engine):
    engine.scores = frozenset({"perplexity"})
    assert engine.precompute(PASSAGES).hits == 1
    prompt = engine.compress(PROMPT, policy="perplexity", p=0.5)
    assert prompt.expanded


def test_a_later_engine_of_the_same_path_writes(engine, model):
    later = Refrag(model, store=LMDBStore(engine.store.path))
    assert later.precompute(PASSAGES).encoded == 1
    assert engine.generate(PROMPT, max_new_tokens=2).counts.cache_hits == 2
    later.store.close()


def test_passages_are_shortened_within_the_budget(engine, model):
    """Also where the engine would read what is missing as text, beyond the budget."""
    reference = extract(Refrag(model, on_miss="text"), PASSAGES, "How long is it?", p=0.3)
    found = extract(Refrag(model, store=engine.store, on_miss="text"), PASSAGES, "How long is it?",
                    p=0.3)  # fmt: skip
    assert found == reference


def test_retrieved_nodes_and_documents_are_marked(engine):
    core = pytest.importorskip("llama_index.core")
    documents = pytest.importorskip("langchain_core.documents")
    from refrag_rag.langchain import RefragCompressor
    from refrag_rag.llama_index import RefragPostprocessor

    nodes = [core.schema.NodeWithScore(node=core.schema.TextNode(text=t)) for t in PASSAGES]
    marked = RefragPostprocessor(engine).postprocess_nodes(nodes)
    assert all("[[refrag" in one.node.get_content("llm") for one in marked)
    found = [documents.Document(text) for text in PASSAGES]
    assert all(
        "[[refrag" in one.page_content
        for one in RefragCompressor(engine).compress_documents(found, "Who?")
    )


def test_a_full_disk_does_not_cost_the_answer(engine, model, monkeypatch, caplog):
    store = LMDBStore(engine.store.path)

    def full(namespace, entries):
        raise StoreError("Is the disk full?")

    monkeypatch.setattr(store, "put", full)
    with caplog.at_level(logging.WARNING, "refrag_rag"):
        answer = Refrag(model, store=store).generate(PROMPT, max_new_tokens=4)
    assert answer.text == Refrag(model).generate(PROMPT, max_new_tokens=4).text
    assert "1 passages were made but not kept: Is the disk full?" in caplog.text
    with pytest.raises(StoreError, match="full"):  # whose only work is to keep
        Refrag(model, store=store).precompute(PASSAGES)
    store.close()


def test_a_store_that_this_user_cannot_write_is_read(path, monkeypatch):
    opened, may = [], os.access
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK and may(place, mode))
    listen = lmdb.open
    monkeypatch.setattr(
        lmdb, "open", lambda *a, **o: (opened.append(o["lock"]), listen(*a, **o))[1]
    )
    (path / "lock.mdb").unlink()  # as on a disk where none can be made
    with LMDBStore(path, read_only=True) as reader:
        assert same(reader.get("a", ["x"])[0], entry())
    assert opened == [False]
