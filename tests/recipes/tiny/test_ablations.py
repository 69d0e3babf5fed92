import json
from random import Random

import numpy as np
import pytest

from recipes.tiny.ablations import AblationSettings, main, run
from recipes.tiny.world import World
from refrag_rag.errors import InputError
from tests.training.data.test_documents import stored

SMALL = {"k": 4, "chunks": 4, "batch_size": 4, "examples": 6, "warmup": 1, "lr": 1e-3}


@pytest.fixture
def few_texts(monkeypatch):
    monkeypatch.setattr("recipes.tiny.ablations.TEXTS", (20, 10))


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_arms_of_the_curriculum_read_the_same_batches_in_another_order(tmp_path, few_texts):
    settings = AblationSettings(out=tmp_path, steps=9, log_every=1, **SMALL)
    figures = run("curriculum", settings)

    folder = tmp_path / "seed-0"
    orders = []
    for arm in ("shuffled", "table8"):
        counts = [line["tokens"] for line in lines(folder / arm / "reconstruct")]
        orders.append(np.diff([0, *counts]).tolist())
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]

    loss, gap = figures["loss"], figures["difference"]
    assert set(loss) == {"random order", "Table 8"}
    assert list(loss["Table 8"]) == [1, 2, 4]
    assert gap["mean"] == pytest.approx(loss["Table 8"][4] - loss["random order"][4])
    assert gap["low"] <= gap["mean"] <= gap["high"]
    written = json.loads((tmp_path / "curriculum.json").read_text())
    assert written["difference"] == gap


def test_both_arms_of_reconstruction_first_read_as_many_tokens(tmp_path, few_texts):
    target = tmp_path / "figures.json"
    settings = AblationSettings(
        out=tmp_path / "run", json=target, steps=1000, tokens=1500, log_every=1, **SMALL
    )
    figures = run("reconstruction", settings)

    folder = tmp_path / "run" / "seed-0"
    read = {
        name: lines(folder / name)[-1]["tokens"]
        for name in ("straight/pretrain", "rebuilt/reconstruct", "rebuilt/pretrain")
    }
    largest = 4 * (2 * 16 + 8)  # a step may go over the budget by what it reads
    assert 0 <= read["straight/pretrain"] - 1500 < largest
    together = read["rebuilt/reconstruct"] + read["rebuilt/pretrain"]
    assert 0 <= together - 1500 < 2 * largest
    assert target.exists()
    assert figures["difference"]["arm"] == "rebuilt first"


def test_only_the_continuation_has_the_rate_that_comes_after(tmp_path, few_texts):
    run("reconstruction", AblationSettings(out=tmp_path, steps=9, tokens=2, lr_after=1e-4, **SMALL))
    folder = tmp_path / "seed-0"
    rates = {
        name: json.loads((folder / name / "settings.json").read_text())["lr"]
        for name in ("straight/pretrain", "rebuilt/reconstruct", "rebuilt/pretrain")
    }
    assert rates == {
        "straight/pretrain": 1e-4,
        "rebuilt/reconstruct": 1e-3,
        "rebuilt/pretrain": 1e-4,
    }


def test_reconstruction_first_reads_what_is_told_twice(tmp_path, few_texts, tiny_model):
    settings = AblationSettings(out=tmp_path, steps=9, tokens=2, **SMALL)
    run("reconstruction", settings)

    text = tiny_model.tokenizer.decode(stored(tmp_path / "seed-0" / "train")[0])
    entities = World(held_out=False).entities(Random("0-False"), 4, facts=7)
    for entity in entities:
        assert all(text.count(fact.value) >= 2 for fact in entity.facts)


def test_a_finished_arm_is_not_trained_again(tmp_path, few_texts):
    settings = AblationSettings(out=tmp_path, steps=3, **SMALL)
    first = run("curriculum", settings)
    weights = tmp_path / "seed-0" / "table8" / "reconstruct" / "model" / "projector.safetensors"
    before = weights.stat().st_mtime_ns
    again = run("curriculum", settings)
    assert weights.stat().st_mtime_ns == before
    assert again["loss"] == first["loss"]


def test_what_cannot_be_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="tokens = None"):
        run("reconstruction", AblationSettings(out=tmp_path, **SMALL))
    with pytest.raises(InputError, match="tokens = 1"):
        run("reconstruction", AblationSettings(out=tmp_path, tokens=1, **SMALL))
    with pytest.raises(InputError, match="first = 1"):
        AblationSettings(out=tmp_path, first=1.0, **SMALL)
    with pytest.raises(InputError, match="no such ablation"):
        main(["everything"])
