"""The recipe's draws: the same seeds give the same rows, to the last bit."""

import hashlib
import json
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from recipes.tiny import base, finetune, policy, pretrain
from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.layout import links
from recipes.tiny.settings import CONFIG
from recipes.tiny.sources import WorldChunks, open_tasks
from recipes.tiny.tasks import Mix
from refrag_rag.training.batches import Row
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.settings import build
from tests.conftest import TINY

STEPS = {"base": 60, "reconstruct": 12, "pretrain": 14, "finetune": 14}
DRAWN = {  # by an earlier version of the code
    "base": "48b8649d108a2b6f7e2ba10b2ce2f39a",
    "reconstruct": "6b95f4a1a3afcb391d28bee437059238",
    "pretrain": "cfbb882a8587d3343d24ef437a46d230",
    "finetune": "d9fe7e8f87784d7e0416d4f9efb47ebf",
    "policy": "9f941f339590b6da3eb78f0a15ec51dd",
}


@pytest.fixture(scope="module")
def model():
    tokenizer = AutoTokenizer.from_pretrained(f"{TINY}/decoder")
    return SimpleNamespace(tokenizer=tokenizer, config=SimpleNamespace(k=8))


def settings(kind, stage, out):
    return build(kind, stage, str(CONFIG), {"out": out})


def open_source(stage, model, out):
    if stage == "base":
        given = settings(base.BaseSettings, stage, out)
        return given.seed, base.open_source(given, model.tokenizer)
    if stage == "reconstruct":
        growth = ChunkGrowth(8, start=1, threshold=0.87, patience=4)
        return 1, WorldChunks(open_tasks(model.tokenizer, Mix()), LengthCurriculum(), growth)
    if stage == "pretrain":
        given = settings(pretrain.PretrainSettings, stage, out)
        return given.seed, pretrain.open_source(given, model)
    given = settings(finetune.FinetuneSettings, stage, out)
    return given.seed, finetune.open_source(given, model)


def as_values(row: Row):
    passages = [[one.token_ids, one.chunk_lengths] for one in row.passages]
    return [row.ids, row.vectors, row.weights, row.target_ids(), passages, row.chosen, links(row)]


def digest(values) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


@pytest.mark.parametrize("stage", STEPS)
def test_the_same_seeds_draw_the_same_rows(stage, model):
    seed, source = open_source(stage, model, Path("run"))
    steps = STEPS[stage]
    drawn = []
    for step in range(steps):
        rows = source.draw(Random(f"{seed}-{step}"), step / steps)
        drawn.append([as_values(row) for row in rows])
        source.record(1.0, 0.9 + step / 1000)
    assert digest(drawn) == DRAWN[stage]


def test_the_same_seeds_draw_the_same_records(model):
    tasks = open_tasks(model.tokenizer, Mix())
    drawn = []
    for step in range(20):
        for one in policy.draw(tasks, Random(f"4-{step}"), 8, 4):
            passages = [[passage.text, passage.gold] for passage in one.passages]
            drawn.append([one.question, passages, one.answers, one.id])
    assert digest(drawn) == DRAWN["policy"]
