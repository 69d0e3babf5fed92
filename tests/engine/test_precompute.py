"""Precompute: sorted, ahead of the encoder, resumable."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refrag_rag import InputError, Refrag
from refrag_rag.engine import precompute as module
from refrag_rag.engine.precompute import ahead
from refrag_rag.store import LMDBStore, MemoryStore, passage_key
from tests.conftest import TINY

PASSAGES = [" ".join(f"Sentence {j} of {i}." for j in range(1 + i % 7)) for i in range(60)]

KILLED = """
import sys
from refrag_rag import Refrag; from refrag_rag.engine import precompute
from refrag_rag.store import LMDBStore
from tests.conftest import TINY
from tests.engine.test_precompute import PASSAGES

precompute.GROUP = 4
engine = Refrag.load(TINY, store=LMDBStore(sys.argv[1]))
add = engine._lookup.add

def slow(passages, embeddings, *, needs):
    add(passages, embeddings, needs=needs)
    print(len(passages), flush=True)
    sys.stdin.readline()  # goes on only when it is told to

engine._lookup.add = slow
engine.precompute(PASSAGES)
"""


def entries(engine, passages=PASSAGES):
    keys = [passage_key(passage) for passage in passages]
    return engine.store.get(engine.namespace, keys)


def test_groups_give_what_one_by_one_gives_longest_first(model, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 8)
    monkeypatch.setattr(module, "BLOCK", 32)
    engine, single = Refrag(model), Refrag(model)
    added = []
    add = engine._lookup.add
    monkeypatch.setattr(
        engine._lookup,
        "add",
        lambda p, e, **more: (added.append(list(p.values())), add(p, e, **more)),
    )
    report = engine.precompute([*PASSAGES, "", PASSAGES[0], *PASSAGES[-3:]])
    assert (report.passages, report.encoded, report.hits) == (60, 60, 0)
    for passage in PASSAGES:
        single.precompute([passage])
    for one, other in zip(entries(engine), entries(single), strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=2e-3)
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
    sizes = [len(passage.text) for group in added[:4] for passage in group]
    assert sizes == sorted(sizes, reverse=True)
    assert {len(group) for group in added} <= {8, 4}
    assert report.chunks == sum(len(one.embeddings) for one in entries(engine))
    again = engine.precompute(iter(PASSAGES))
    assert (again.encoded, again.hits, again.chunks) == (0, 60, 0)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The process is killed while it waits behind its third group."""
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        kept = 0
        for _ in range(3):
            kept += int(run.stdout.readline())
            if kept < 12:
                run.stdin.write("go on\n")
                run.stdin.flush()
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
    assert kept == 12
    with LMDBStore(tmp_path) as store:
        engine = Refrag.load(TINY, store=store)
        encoded = []
        encode = engine.model.encoder.encode
        monkeypatch.setattr(
            engine.model.encoder,
            "encode",
            lambda passages, **more: (encoded.extend(passages), encode(passages, **more))[1],
        )
        report = engine.precompute(PASSAGES)
        assert (report.passages, report.hits, report.encoded) == (60, 12, 48)
        assert len({passage.text for passage in encoded}) == len(encoded) == 48
        assert all(entries(engine))


def test_what_is_there_is_not_read_to_learn_that_it_is(model, monkeypatch):
    engine = Refrag(model)
    engine.precompute(PASSAGES[:30])
    monkeypatch.setattr(engine.store, "get", lambda *_: pytest.fail("read"))
    report = engine.precompute(PASSAGES)
    assert (report.hits, report.encoded) == (30, 30)


def test_every_passage_is_hashed_once(model, monkeypatch):
    hashed = []

    def counted(text):
        hashed.append(text)
        return passage_key(text)

    monkeypatch.setattr(module, "passage_key", counted)
    monkeypatch.setattr("refrag_rag.engine.lookup.passage_key", counted)
    Refrag(model, scores=["perplexity"]).precompute(PASSAGES)
    assert sorted(hashed) == sorted(PASSAGES)


def test_stored_passages_without_a_needed_score_are_not_encoded_again(model, monkeypatch):
    store = MemoryStore()
    Refrag(model, store=store).precompute(PASSAGES[:5])
    engine = Refrag(model, store=store, scores=["perplexity"])
    monkeypatch.setattr(model.encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    report = engine.precompute(PASSAGES[:5])
    assert (report.hits, report.encoded) == (5, 0)
    assert all(entry.scores for entry in entries(engine, PASSAGES[:5]))


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_numbers_are_refused(engine, value):
    with pytest.raises(InputError, match="batch_size"):
        engine.precompute(PASSAGES, batch_size=value)


def test_the_bar_counts_all_passages(model, capsys):
    Refrag(model).precompute([*PASSAGES, PASSAGES[0], ""], progress=True)
    shown = capsys.readouterr().err
    assert "62/62" in shown
    assert "passage/s" in shown


def test_ahead_works_while_the_last_result_is_used():
    started = []
    results = ahead(lambda item: (started.append(item), item)[1], range(4))
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while 1 not in started and time.monotonic() < deadline:
        time.sleep(0.001)
    assert started == [0, 1]
    assert list(results) == [1, 2, 3]


def test_an_error_ahead_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0]))
