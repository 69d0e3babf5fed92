"""The loop: normalisation, accumulation, resuming after a kill, and what stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from recipes.tiny.layout import cut
from refrag_rag.errors import InputError, TrainingError
from refrag_rag.training import deepspeed, state
from refrag_rag.training.batches import Piece, Row, arrange, collate, gold
from refrag_rag.training.drawing import share_of
from refrag_rag.training.loop import train
from refrag_rag.training.loss import next_token_loss
from refrag_rag.training.progress import Progress
from refrag_rag.training.reading import Reader
from refrag_rag.training.settings import LoopSettings
from tests.conftest import build_model


class Stopped(RuntimeError):
    """The machine goes away."""


class FixedRows:
    """The same rows in every step."""

    def __init__(self, rows, stop_at=None):
        self.rows, self.seen, self.stop_at = rows, [], stop_at

    def draw(self, rng: Random, share: float):
        return self.rows

    def record(self, loss, accuracy):
        if len(self.seen) == self.stop_at:
            raise Stopped
        self.seen.append([loss, accuracy])

    def summary(self):
        return {}

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]


def some_rows(count=5, length=24):
    rng = Random(0)
    rows = []
    for number in range(count):
        ids = [rng.randrange(10, 500) for _ in range(length + 3 * number)]
        pieces = [Piece(ids, 0.1, chunked=cut(ids, 8)), gold(ids[: 4 + number])]
        masks = [[place % 3 == 0 for place in range(-(-len(ids) // 8))]]
        rows.append(arrange(pieces, masks, origin=f"row {number}"))
    return rows


def settings(folder, **given):
    return LoopSettings(out=folder, **{"steps": 3, "lr": 1e-2, "log_every": 1, **given})


def losses(folder):
    lines = (folder / "log.jsonl").read_text("utf-8").splitlines()
    return {json.loads(line)["step"]: json.loads(line)["loss"] for line in lines}


def run(tokenizer, folder, rows, *, stop_at=None, dropout=False, **given):
    model = build_model(tokenizer).train(dropout)
    source = FixedRows(rows, stop_at)
    train(Reader(model), source=source, settings=settings(folder, **given), folder=folder)
    return model, source


def test_the_loss_is_normalised_over_the_global_batch(tokenizer, tmp_path):
    rows = some_rows()
    run(tokenizer, tmp_path, rows, steps=1)
    reader = Reader(build_model(tokenizer))
    with torch.no_grad():
        sums = next_token_loss(reader, rows, rows)
    wanted = sums.loss.item() / sum(row.weight for row in rows)
    assert losses(tmp_path)[1] == pytest.approx(wanted, abs=1e-4)


def test_accumulation_changes_nothing(tokenizer, tmp_path):
    run(tokenizer, tmp_path / "whole", some_rows())
    run(tokenizer, tmp_path / "parts", some_rows(), micro_batch=2)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-5)


def test_processes_share_a_batch_without_losing_a_row():
    rows = some_rows(5)
    shares = [share_of(rows, process=p, processes=3, size=1) for p in range(3)]
    assert {len(share) for share in shares} == {2}
    given = [row for share in shares for part in share for row in part]
    assert sorted(row.origin for row in given if row.weight) == [row.origin for row in rows]
    assert sum(not row.weight for row in given) == 1


def test_rows_of_one_length_are_padded_together():
    rows = [some_rows(1, length)[0] for length in (80, 8, 64, 8, 80, 64)]
    parts = share_of(rows, process=0, processes=1, size=2)
    assert [part[0].tokens == part[1].tokens for part in parts] == [True] * 3
    assert len({part[0].tokens for part in parts}) == 3


def test_a_silent_row_adds_no_loss(tokenizer):
    rows = some_rows(2)
    reader = Reader(build_model(tokenizer))
    alone = next_token_loss(reader, rows[:1], rows)
    both = next_token_loss(reader, [rows[0], rows[1].silent()], rows)
    torch.testing.assert_close(alone.loss, both.loss)
    assert int(alone.targets) == int(both.targets)


def test_text_alone_runs_the_encoder_when_others_have_vectors(tokenizer):
    rows = some_rows(2)
    text = arrange(rows[0].pieces, None)
    reader = Reader(build_model(tokenizer))
    alone = next_token_loss(reader, [text], [text])
    together = next_token_loss(reader, [text], rows)
    torch.testing.assert_close(alone.loss, together.loss)
    together.loss.backward()
    assert reader.model.encoder.model.embeddings.word_embeddings.weight.grad is not None


def test_rows_know_their_tokens():
    row = some_rows(1)[0]
    assert isinstance(row, Row)
    batch = collate([row])
    assert row.tokens == batch.input_ids.shape[1]
    assert int(batch.vector_mask.sum()) == sum(row.chosen)


def test_a_run_that_goes_on_ends_in_the_same_weights(tokenizer, tmp_path):
    given = {"steps": 4, "save_every": 2, "dropout": True}
    whole, source = run(tokenizer, tmp_path / "whole", some_rows(), **given)
    with pytest.raises(Stopped):
        run(tokenizer, tmp_path / "cut", some_rows(), stop_at=3, **given)
    again, resumed = run(tokenizer, tmp_path / "cut", some_rows(), **given)
    assert resumed.seen == source.seen
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_other_settings_are_refused_by_name(tokenizer, tmp_path):
    run(tokenizer, tmp_path, some_rows(), steps=2)
    with pytest.raises(InputError, match=r"lr: 0\.01 before, 0\.02 now"):
        run(tokenizer, tmp_path, some_rows(), steps=2, lr=2e-2)
    run(tokenizer, tmp_path, some_rows(), steps=2, save_every=7)


def test_a_run_may_go_on_with_other_micro_batches(tokenizer, tmp_path):
    given = {"steps": 4, "save_every": 2}
    run(tokenizer, tmp_path / "whole", some_rows(), **given)
    with pytest.raises(Stopped):
        run(tokenizer, tmp_path / "cut", some_rows(), stop_at=3, **given)
    run(tokenizer, tmp_path / "cut", some_rows(), micro_batch=1, **given)
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_a_loss_that_is_no_number_stops_with_step_and_rows(tokenizer, tmp_path):
    model = build_model(tokenizer).train()
    calls = []

    def objective(module, rows, everything):
        calls.append(1)
        sums = next_token_loss(module, rows, everything)
        return sums._replace(loss=sums.loss * float("nan")) if len(calls) == 3 else sums

    with pytest.raises(TrainingError, match=r"step 2 is nan.*row 0, row 1"):
        train(
            Reader(model),
            source=FixedRows(some_rows()),
            settings=settings(tmp_path, save_every=2, steps=4),
            folder=tmp_path,
            objective=objective,
        )
    assert (tmp_path / state.STATE).exists()


def test_a_full_disk_keeps_the_state_before(tokenizer, tmp_path, monkeypatch):
    run(tokenizer, tmp_path, some_rows(), steps=2, save_every=1)
    before = (tmp_path / state.STATE).read_bytes()

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(TrainingError, match="No space left"):
        run(tokenizer, tmp_path, some_rows(), steps=2, save_every=1)
    assert (tmp_path / state.STATE).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_wandb_gets_the_log(tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(tokenizer, tmp_path / "run", some_rows(), steps=2, tracker="wandb")
    logged = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logged) == 1
    assert b"norm" in logged[0].read_bytes()


def test_tensorboard_gets_the_log_with_the_curriculums_figures(tokenizer, tmp_path, monkeypatch):
    figures = {"stage": 3, "held_by": [1, 2], "accuracy": {4: 0.25}}
    monkeypatch.setattr(FixedRows, "summary", lambda self: figures)
    run(tokenizer, tmp_path, some_rows(), steps=2, tracker="tensorboard")
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    written = events.read_bytes()
    for name in (b"loss", b"norm", b"stage", b"accuracy/4"):
        assert name in written
    assert b"held_by" not in written


@pytest.mark.parametrize(
    ("stage", "offload", "precision"), [(3, "none", "no"), (2, "cpu", "no"), (2, "none", "fp16")]
)
def test_deepspeed_otherwise_is_refused_before_anything_is_written(
    tokenizer, tmp_path, monkeypatch, stage, offload, precision
):
    plugin = SimpleNamespace(zero_stage=stage, offload_optimizer_device=offload)
    launched = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    monkeypatch.setattr("refrag_rag.training.launch.Accelerator", lambda **_: launched)
    with pytest.raises(InputError, match="DeepSpeed"):
        run(tokenizer, tmp_path / "run", some_rows(), precision=precision)
    assert not (tmp_path / "run").exists()


class ZeroRun:
    """What the checkpoints need of an accelerator under DeepSpeed."""

    is_main_process = True

    def __init__(self, processes=2):
        self.num_processes, self.loaded, self.wait_for_everyone = processes, [], lambda: None
        self.load_state = self.loaded.append

    def save_state(self, folder):
        Path(folder).mkdir()
        Path(folder, "weights").write_text("whole")


def test_deepspeeds_last_whole_checkpoint_is_gone_on_from(tmp_path):
    run = ZeroRun()
    assert deepspeed.load(run, tmp_path) is None
    deepspeed.save(run, tmp_path, {"progress": [2]}, step=2)
    deepspeed.save(run, tmp_path, {"progress": [4]}, step=4)
    run.save_state(tmp_path / "deepspeed-6")  # stopped in the middle of a save
    assert deepspeed.load(run, tmp_path) == {"progress": [4]}
    assert run.loaded == [str(tmp_path / "deepspeed-4")]
    assert not (tmp_path / "deepspeed-2").exists()
    with pytest.raises(InputError, match="2 processes"):
        deepspeed.load(ZeroRun(3), tmp_path)


def test_a_full_disk_keeps_deepspeeds_checkpoint_before(tmp_path):
    run = ZeroRun()
    deepspeed.save(run, tmp_path, {}, step=2)
    (tmp_path / "deepspeed-4").mkdir()
    with pytest.raises(TrainingError, match="is kept"):
        deepspeed.save(run, tmp_path, {}, step=4)
    deepspeed.load(run, tmp_path)
    assert run.loaded == [str(tmp_path / "deepspeed-2")]


def test_a_run_of_deepspeed_does_not_begin_again_without_it(tokenizer, tmp_path):
    run(tokenizer, tmp_path, some_rows(), steps=2)
    (tmp_path / "deepspeed.json").write_text("{}")
    with pytest.raises(InputError, match="with DeepSpeed"):
        run(tokenizer, tmp_path, some_rows(), steps=2)


def test_a_stage_of_whole_weights_refuses_fsdp(tokenizer, tmp_path, monkeypatch):
    launched = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr("refrag_rag.training.launch.Accelerator", lambda **_: launched)
    reader, source = Reader(build_model(tokenizer)), FixedRows(some_rows())
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="expected DDP"):
        train(reader, source=source, settings=settings(folder), folder=folder, whole=True)
    assert not folder.exists()


def test_nothing_to_learn_is_an_error(tokenizer, tmp_path):
    silent = [row.silent() for row in some_rows()]
    with pytest.raises(InputError, match="no token to learn from"):
        run(tokenizer, tmp_path, silent)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rates_rise_and_fall(tmp_path, schedule):
    given = settings(tmp_path, steps=100, warmup=0.1, schedule=schedule, decay=0.2)
    rates = [Progress(given, step).lr for step in range(101)]
    assert rates[0] == pytest.approx(1e-3, rel=0.01)
    assert max(rates) <= 1e-2
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[20:] == sorted(rates[20:], reverse=True)


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from tests.training.test_loop import run, some_rows
tokenizer = train_tokenizer(World(), vocab_size=600, passages=200, seed=0)
run(tokenizer, Path(sys.argv[1]), some_rows(), steps=40, save_every=5)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_gives_the_same_loss_curve(tokenizer, tmp_path):
    root = os.fspath(__import__("pathlib").Path(__file__).parents[2])
    command = [sys.executable, "-c", KILLED, os.fspath(tmp_path / "killed"), root]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "log.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < 12:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(tmp_path / "killed")) < 40
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    run(tokenizer, tmp_path / "whole", some_rows(), steps=40, save_every=5)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
