"""The recipe's draws: the same seeds give the same rows, to the last bit."""

import hashlib
import json
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.training import base, finetune, policy, pretrain
from refrag_rag.training.batches import Row, targets
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.levels import LevelCurriculum
from refrag_rag.training.settings import build
from refrag_rag.training.tasks import Mix
from refrag_rag.training.world_sources import WorldChunks, WorldText, open_tasks

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
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny") / "decoder")
    return SimpleNamespace(tokenizer=tokenizer, config=SimpleNamespace(k=8))


def open_source(stage, model, out):
    if stage == "base":
        settings = build(base.BaseSettings, stage, "tiny", {"out": out})
        mix = Mix(copy=0.05, retell=0.05, plain_style=0.95, questions=settings.questions)
        levels = LevelCurriculum(threshold=settings.mastered, below=settings.easier)
        tasks = open_tasks(model.tokenizer, mix)
        return settings.seed, WorldText(tasks, levels, restating=settings.restating)
    if stage == "reconstruct":
        growth = ChunkGrowth(8, start=1, threshold=0.87, patience=4)
        return 1, WorldChunks(open_tasks(model.tokenizer, Mix()), LengthCurriculum(growth))
    if stage == "pretrain":
        settings = build(pretrain.PretrainSettings, stage, "tiny", {"out": out})
        return settings.seed, pretrain._world_source(settings, model)
    settings = build(finetune.FinetuneSettings, stage, "tiny", {"out": out})
    return settings.seed, finetune._source(settings, model)


def as_values(row: Row):
    passages = [[one.token_ids, one.chunk_lengths] for one in row.passages]
    return [row.ids, row.vectors, row.weights, targets(row), passages, row.chosen, row.links]


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
        for one in policy._world(tasks, Random(f"4-{step}"), 8, 4):
            passages = [[passage.text, passage.gold] for passage in one.passages]
            drawn.append([one.question, passages, one.answers, one.id])
    assert digest(drawn) == DRAWN["policy"]
