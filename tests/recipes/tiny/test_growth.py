"""Chunks grow when the current size is mastered, and a run goes on where it stopped."""

import json
from random import Random

import torch

from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.layout import MarkedPiece, lay_out
from refrag_rag.training.batches import collate
from refrag_rag.training.reading import embed_chosen
from tests.conftest import build_model


def run(growth, steps, accuracy, seed=0):
    rng = Random(seed)
    sizes = []
    for _ in range(steps):
        sizes.append(growth.draw(rng))
        growth.record(accuracy)
    return sizes


def test_a_mastered_size_is_left_and_stays_in_the_mix():
    growth = ChunkGrowth(4, start=1, patience=5)
    sizes = run(growth, 100, 1.0)
    assert sizes[:5] == [1] * 5
    assert growth.current == 4
    assert set(sizes) == {1, 2, 3, 4}
    assert set(run(growth, 50, 1.0)) == {4}  # the whole chunk once it is reached


def test_an_unmastered_size_is_kept():
    growth = ChunkGrowth(4, start=2, patience=5)
    assert set(run(growth, 200, 0.5)) == {1, 2}
    growth.record(float("nan"))
    assert growth.current == 2


def test_the_whole_chunk_is_the_default():
    assert set(run(ChunkGrowth(8), 20, 0.1)) == {8}


def test_a_stopped_run_draws_on_alike():
    growth = ChunkGrowth(8, start=1, patience=5)
    run(growth, 23, 1.0)
    again = ChunkGrowth(8, start=1, patience=5)
    again.restore(json.loads(json.dumps(growth.state())))
    assert again.state() == growth.state()
    assert run(again, 30, 1.0, seed=4) == run(growth, 30, 1.0, seed=4)


def test_a_batch_is_read_at_its_own_chunk_size(tokenizer):
    model = build_model(tokenizer, pooling="concat")
    ids = list(range(10, 17))
    rows = lay_out([[MarkedPiece(ids, passage=True)]], Random(0), k=3, text_share=0.0)
    batch = collate(rows)
    width = model.config.encoder_width
    embedded = embed_chosen(model, batch)  # (3, 8 * width)
    assert embedded.shape == (3, 8 * width)
    used = [(row.view(8, width).abs().sum(1) > 0).sum().item() for row in embedded]
    assert used == [3, 3, 1]
    assert torch.equal(batch.vector_mask, torch.tensor([[True, True, True]]))
