"""Bytes that changed on disk: every way of reading notices, and what is damaged is made anew."""

import logging
import random

import numpy as np
import pytest

from refrag_rag import Refrag, StoreError
from refrag_rag.spans import wrap
from refrag_rag.store import LMDBStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.store.merge import merge_stores
from refrag_rag.store.upkeep import verify
from tests.store.test_stores import entry, same

PASSAGE = "The Aru flows north. It is 900 km long. Its name means river. " * 4
OTHER = "Mount Tarsk is 2,310 metres high. It was climbed in 1871. " * 4
PROMPT = f"{wrap(PASSAGE)} {wrap(OTHER)} How long is it?"


def damage(store, namespace, key, count=200):
    """Flip bytes of an entry's chunk embeddings."""
    data = bytearray(store.get_bytes(namespace, [key])[0])
    middle = len(data) - count
    for place in range(middle, middle + count):
        data[place] ^= 0x11
    store.put_bytes(namespace, {key: bytes(data)})


@pytest.mark.parametrize("format", ["fp16", "fp32", "bf16", "int8"])
def test_one_flipped_bit_anywhere_is_a_miss(tmp_path, format, caplog):
    rng = random.Random(4)
    with LMDBStore(tmp_path, format=format) as store:
        store.put("a", {"x": entry(chunks=9, width=70), "y": entry(seed=1)})
        sound = store.get_bytes("a", ["x"])[0]
        for _ in range(200):
            changed = bytearray(sound)
            changed[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
            store.put_bytes("a", {"x": bytes(changed)})
            caplog.clear()
            with caplog.at_level(logging.WARNING, "refrag_rag"):
                found = store.get("a", ["x", "y"])
            assert found[0] is None
            assert found[1] is not None
            assert "a/x counts as missing" in caplog.text
        store.put_bytes("a", {"x": sound})
        assert store.get("a", ["x"])[0] is not None


@pytest.fixture
def damaged(model, tmp_path):
    """An engine whose store has a damaged and a sound passage."""
    with LMDBStore(tmp_path / "store") as store:
        engine = Refrag(model, store=store)
        engine.precompute([PASSAGE, OTHER])
        damage(store, engine.namespace, passage_key(PASSAGE))
        yield engine


def test_an_answer_is_that_of_sound_vectors_and_mends_the_store(damaged, model, caplog):
    expected = Refrag(model).generate(PROMPT, max_new_tokens=6)
    with caplog.at_level(logging.WARNING, "refrag_rag"):
        answer = damaged.generate(PROMPT, max_new_tokens=6)
    assert (answer.counts.cache_hits, answer.counts.cache_misses) == (1, 1)
    assert answer.text == expected.text
    assert "counts as missing" in caplog.text
    assert verify(damaged.store).damaged == ()
    assert damaged.generate(PROMPT, max_new_tokens=1).counts.cache_hits == 2


def test_a_score_is_not_added_to_damaged_vectors(damaged):
    damaged.scores = frozenset({"perplexity"})
    report = damaged.precompute([PASSAGE, OTHER])
    assert (report.hits, report.encoded) == (1, 1)
    assert verify(damaged.store).damaged == ()


def test_a_merge_leaves_damaged_entries_out_and_replaces_ours(damaged, tmp_path):
    with LMDBStore(tmp_path / "new") as new:
        done = merge_stores(new, [damaged.store.path])
        assert (done.new, done.damaged) == (1, 1)
        assert verify(new).entries == 1
    with LMDBStore(tmp_path / "whole") as whole:
        whole.put(damaged.namespace, {passage_key(PASSAGE): entry()})
    done = merge_stores(damaged.store, [tmp_path / "whole"])
    assert (done.new, done.damaged) == (1, 0)
    assert same(damaged.store.get(damaged.namespace, [passage_key(PASSAGE)])[0], entry())


def test_an_entry_of_another_width_is_a_miss(damaged, model, caplog):
    damaged.store.put(damaged.namespace, {passage_key(OTHER): entry(width=7)})
    answer = damaged.generate(PROMPT, max_new_tokens=6)
    assert answer.counts.cache_misses == 2
    assert answer.text == Refrag(model).generate(PROMPT, max_new_tokens=6).text
    assert "7 numbers a vector" in caplog.text


def test_a_prompt_that_is_held_is_never_written_over(model, tmp_path):
    with LMDBStore(tmp_path) as store:
        engine = Refrag(model, store=store)
        engine.precompute([PASSAGE, OTHER])
        prompt = engine.compress(PROMPT)
        before = [run.copy() for run in prompt.embeddings()]
        held = [engine.compress(wrap(OTHER) * 3 + "?") for _ in range(4)]
        for run, copy in zip(prompt.embeddings(), before, strict=True):
            np.testing.assert_array_equal(run, copy)
        assert len(held) == 4


def test_arrays_of_an_entry_are_its_own(tmp_path):
    """No view of the file, or of another entry's memory, is handed out."""
    with LMDBStore(tmp_path) as store:
        store.put("a", {"x": entry(), "y": entry(seed=1)})
        for one in store.get("a", ["x", "y"]):
            assert isinstance(one, PassageEntry)
            arrays = (one.embeddings, one.token_ids, one.chunk_lengths, one.char_ends)
            assert all(array.base is None and array.flags.writeable for array in arrays)


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@pytest.mark.parametrize("number", [float("nan"), 1e6])
def test_an_encoder_that_gives_no_numbers_is_an_error_not_an_answer(
    model, tmp_path, monkeypatch, kind, number
):
    store = MemoryStore() if kind == "memory" else LMDBStore(tmp_path)
    engine, encode = Refrag(model, store=store), model.encoder.encode
    monkeypatch.setattr(
        model.encoder, "encode", lambda *a, **n: [one * 0 + number for one in encode(*a, **n)]
    )
    for work in (lambda: engine.generate(PROMPT), lambda: engine.precompute([PASSAGE])):
        with pytest.raises(StoreError, match="NaN or infinity"):
            work()
    assert store.namespaces() == []
    store.close()


def test_a_file_that_was_emptied_is_no_new_store(tmp_path):
    with LMDBStore(tmp_path / "store") as store:
        store.put("a", {"x": entry()})
    (tmp_path / "store" / "data.mdb").write_bytes(b"")
    for read_only in (False, True):
        with pytest.raises(StoreError, match="has no bytes left"):
            LMDBStore(tmp_path / "store", read_only=read_only)
    assert (tmp_path / "store" / "data.mdb").stat().st_size == 0
