"""Two processes on this CPU (gloo): the same losses as one with the same global batch."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_loop import losses

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
ZERO |= {"DS_ACCELERATOR": "cpu"}
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs DeepSpeed, which is no dependency"
)


def launch(folder, *, processes, given=None, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(ROOT / "tests" / "training" / "sharded.py")]
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    run = subprocess.run(
        [*command, str(folder), *([given] if given else [])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return losses(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, launch(folder, processes=1)


def weights(folder):
    return load_file(folder / "model" / "decoder" / "model.safetensors")


KINDS = [
    pytest.param({}, id="ddp"),
    pytest.param(FSDP, id="fsdp2"),
    pytest.param(ZERO, id="zero2", marks=needs_deepspeed),
]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns(alone, tmp_path, kind):
    folder, wanted = alone
    assert launch(tmp_path / "two", processes=2, **kind) == pytest.approx(wanted, abs=1e-5)
    one, two = weights(folder), weights(tmp_path / "two")
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def pointed(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("pointed"), processes=1, given="pointing")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_point_where_one_points(pointed, tmp_path, kind):
    two = launch(tmp_path, processes=2, given="pointing", **kind)
    assert two == pytest.approx(pointed, rel=1e-4)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(FSDP, {}, id="fsdp2-alone"),
        pytest.param(ZERO, ZERO, id="zero2-zero2", marks=needs_deepspeed),
    ],
)
def test_a_sharded_run_goes_on_elsewhere(alone, tmp_path, before, after):
    _, wanted = alone
    launch(tmp_path / "cut", processes=2, given="4", **before)
    found = launch(tmp_path / "cut", processes=2 if after else 1, **after)
    assert found == pytest.approx(wanted, abs=1e-5)


@needs_deepspeed
def test_frozen_weights_keep_every_bit_in_bf16(tmp_path):
    found = launch(tmp_path / "frozen", processes=2, given="frozen", **ZERO)
    assert found[6] < found[1]


def test_all_processes_go_by_one_clock(tmp_path):
    launch(tmp_path, processes=2, given="clock")
    first, second = (json.loads((tmp_path / f"shares-{i}.json").read_text()) for i in range(2))
    assert first == second
    assert first == sorted(first)
    assert len(set(first)) > 2
