"""The doctor adds up what is there."""

import pytest
from safetensors.torch import load_file

from refrag_rag import CheckpointError
from refrag_rag.checkpoints.machine import GIB, Machine, Needs, needs, this_machine
from refrag_rag.cli import main
from refrag_rag.cli.doctor import advise, report


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_needs_are_the_tensors_and_the_cache(folder, model):
    found = needs(folder)
    stored = [t for path in folder.rglob("*.safetensors") for t in load_file(path).values()]
    assert found.parameters == sum(t.numel() for t in stored)
    assert found.window == model.max_positions
    assert found.cache_per_position == 2 * 2 * 2 * 12  # keys and values, layers, heads, width
    cpu = Machine("CPU", 8 * GIB, "cpu")
    assert found.bytes_on(cpu, 10) == 4 * (found.parameters + 10 * 96)


def test_a_large_model_is_advised_against():
    half = Needs(parameters=4 * 10**9, stored=8 * 10**9, window=2**17, cache_per_position=10**4)
    small, gpu = Machine("CPU", 8 * GIB, "cpu"), Machine("GPU", 80 * GIB, "cuda")
    assert "bfloat16" in advise(small, half)
    assert advise(gpu, half) == "It fits, window and all."
    assert "4,096" in advise(Machine("GPU", 10 * GIB, "cuda"), half)
    assert "device_map" in advise(Machine("GPU", 4 * GIB, "cuda"), half)


def test_the_command_prints_machine_and_model(folder, capsys):
    assert main(["doctor", str(folder)]) == 0
    text = capsys.readouterr().out
    assert this_machine().device in text
    assert "refrag-rag layout" in text
    assert "It fits" in text
    assert "refrag doctor smol" in list(report())[-1]


def test_what_cannot_be_read_is_our_error(folder, tmp_path, capsys):
    (folder / "decoder" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="Download it again"):
        needs(folder)
    assert main(["doctor", str(tmp_path)]) == 1
    assert "neither" in capsys.readouterr().err
