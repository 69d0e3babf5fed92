"""The bundled configuration `small`, all stages one after the other, on a random stand-in."""

import json

import pytest
import torch
from safetensors.torch import load_file

from refrag_rag import Refrag
from refrag_rag.cli import main
from refrag_rag.spans import wrap

STEPS = 100
OPTIONS = {
    "reconstruct": "--k 8 --window 32 --chunks 4 --lr 3e-3 --encoder {parts}/encoder "
    "--decoder {parts}/decoder --data {prepared}/text",
    "pretrain": "--chunks 4 --following 16 --lr 1e-3 --data {prepared}/text",
    "policy": "--kind learned-query --lr 1e-3 --batch-size 1 --samples 4 --width 16 "
    "--save-every 100 --data {prepared}/questions",
    "finetune": "--max-passages 3 --lr 1e-3 --batch-size 2 --data {prepared}/questions",
}


@pytest.fixture(scope="module")
def run_folder(parts, prepared, tmp_path_factory):
    """All four stages of `small`, through the command line."""
    out = tmp_path_factory.mktemp("run")
    for stage, options in OPTIONS.items():
        given = options.format(parts=parts, prepared=prepared).split()
        size = [] if "--batch-size" in given else ["--batch-size", "4"]
        command = ["train", stage, "--config", "small", "--out", str(out), "--steps", str(STEPS)]
        assert main([*command, "--precision", "no", *size, *given]) == 0
    return out


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def weights_of(folder):
    return {
        f"{path.parent.name}/{path.name}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def changed(before, after):
    one, two = weights_of(before), weights_of(after)
    return {n.split("/")[0] for n in one if not torch.equal(one[n], two[n])}


def test_every_stage_learns(run_folder):
    for stage in ("reconstruct", "pretrain", "finetune"):
        lines = lines_of(run_folder / stage)
        assert lines[-1]["step"] == STEPS
        # a frozen decoder with random weights cannot say what the vectors hold
        assert stage == "reconstruct" or lines[-1]["loss"] < lines[0]["loss"] - 0.05


def test_only_what_a_stage_claims_moves(run_folder):
    reconstruct, pretrain, policy, finetune = (
        run_folder / stage / "model" for stage in ("reconstruct", "pretrain", "policy", "finetune")
    )
    assert changed(reconstruct, pretrain) == {"encoder", "model", "decoder"}
    assert changed(pretrain, policy) == set()
    assert (policy / "policy.safetensors").is_file()
    assert changed(pretrain, finetune) == {"encoder", "model", "decoder"}


def test_reconstruction_leaves_the_decoder_bit_for_bit(run_folder, parts):
    before = load_file(parts / "decoder" / "model.safetensors")
    after = load_file(run_folder / "reconstruct" / "model" / "decoder" / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_frozen_decoder_stays_in_every_stage(run_folder, prepared, tmp_path):
    started = run_folder / "reconstruct" / "model"
    common = ["--out", str(tmp_path), "--steps", "60", "--lr", "3e-3", "--freeze", "decoder"]
    data = ["--data", str(prepared / "questions"), "--max-passages", "3", "--batch-size", "4"]
    command = ["train", "finetune", *common, *data, "--start", str(started), "--log-every", "1"]
    assert main(command) == 0
    assert changed(started, tmp_path / "finetune" / "model") == {"encoder", "model"}
    losses = [line["loss"] for line in lines_of(tmp_path / "finetune")]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize("given", ["decoder --lora 4", "decoder encoder projector", "policy"])
def test_what_cannot_be_frozen(prepared, tmp_path, given, capsys):
    command = ["train", "finetune", "--out", str(tmp_path), "--data", str(prepared / "questions")]
    assert main([*command, "--freeze", *given.split()]) == 1
    assert "freeze" in capsys.readouterr().err


def test_the_trained_policy_answers_through_the_engine(run_folder):
    engine = Refrag.load(run_folder / "policy" / "model", policy="learned-query", p=0.2)
    prompt = f"{wrap('Velmora makes clocks in Port Belu. ' * 8)}\n\nWhat does Velmora make?"
    compressed = engine.compress(prompt)
    assert compressed.expanded == max(1, round(0.2 * compressed.chunks))


def test_policies_of_both_kinds_stay_together(run_folder, prepared):
    command = f"train policy --config small --out {run_folder} --kind learned --steps 4"
    command += f" --batch-size 1 --width 16 --precision no --data {prepared}/questions"
    assert main(command.split()) == 0
    engine = Refrag.load(run_folder / "policy" / "model")
    assert set(engine.model.policies) == {"learned", "learned-query"}
