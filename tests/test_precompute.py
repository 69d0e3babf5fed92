"""Precompute: sorted, ahead of the encoder, resumable, in several processes."""

import copy
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refrag_rag import InputError, Refrag
from refrag_rag import precompute as module
from refrag_rag.encoder_pool import worker_devices
from refrag_rag.errors import RefragError
from refrag_rag.precompute import ahead
from refrag_rag.store import LMDBStore, MemoryStore, passage_key
from tests.conftest import TINY

PASSAGES = [" ".join(f"Sentence {j} of {i}." for j in range(1 + i % 7)) for i in range(60)]

KILLED = """
import sys
from refrag_rag import Refrag, precompute
from refrag_rag.store import LMDBStore
from tests.conftest import TINY
from tests.test_precompute import PASSAGES

precompute.GROUP = 4
engine = Refrag.load(TINY, store=LMDBStore(sys.argv[1]))
add = engine._lookup.add

def slow(passages, embeddings, *, needs=()):
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
        engine._lookup, "add", lambda p, e, **more: (added.append(p), add(p, e, **more))
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
    assert (again.encoded, again.hits, again.chunks) == (0, 60, report.chunks)


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


def test_several_processes_give_the_same(model, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 16)
    engine, single = Refrag(model), Refrag(model)
    report = engine.precompute(PASSAGES, workers=2)
    assert (report.passages, report.encoded) == (60, 60)
    single.precompute(PASSAGES)
    for one, other in zip(entries(engine), entries(single), strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=2e-3)
        np.testing.assert_array_equal(one.char_ends, other.char_ends)
    assert engine.precompute(PASSAGES, workers=2).hits == 60


def test_each_worker_takes_a_gpu_of_its_own(monkeypatch):
    two = SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: two)
    cuda = torch.device("cuda")
    assert worker_devices(cuda, 2) == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(InputError, match=r"workers = 3 .* 2 such devices"):
        worker_devices(cuda, 3)
    assert worker_devices(torch.device("cpu"), 3) == [torch.device("cpu")] * 3


@pytest.mark.gpu
def test_every_gpu_gives_the_same_as_the_cpu(model):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    here, there = Refrag(model), Refrag(copy.deepcopy(model).to("cuda"))
    here.precompute(PASSAGES)
    there.precompute(PASSAGES, workers=torch.cuda.device_count())
    for one, other in zip(entries(here), entries(there), strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=2e-3)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_what_was_kept_stays(model, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 4)
    engine = Refrag(model)
    add = engine._lookup.add
    from multiprocessing import active_children

    def add_then_kill(passages, embeddings, *, needs=()):
        add(passages, embeddings, needs=needs)
        for child in active_children():
            os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(engine._lookup, "add", add_then_kill)
    with pytest.raises(RefragError, match="worker process ended"):
        engine.precompute(PASSAGES, workers=2)
    kept = sum(entry is not None for entry in entries(engine))
    assert 4 <= kept < 60
    assert not active_children()


def test_stored_passages_without_a_needed_score_are_not_encoded_again(model, monkeypatch):
    store = MemoryStore()
    Refrag(model, store=store).precompute(PASSAGES[:5])
    engine = Refrag(model, store=store, scores=["perplexity"])
    monkeypatch.setattr(model.encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    report = engine.precompute(PASSAGES[:5])
    assert (report.hits, report.encoded) == (5, 0)
    assert all(entry.scores for entry in entries(engine, PASSAGES[:5]))


@pytest.mark.parametrize("name", ["workers", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_numbers_are_refused(engine, name, value):
    with pytest.raises(InputError, match=name):
        engine.precompute(PASSAGES, **{name: value})


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
