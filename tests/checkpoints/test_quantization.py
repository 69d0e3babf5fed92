"""Decoders in fewer bits, and the loading that a machine can hold."""

import logging

import pytest
import torch
from transformers import BitsAndBytesConfig

from refrag_rag import CheckpointError, InputError, Refrag, RefragModel
from refrag_rag.checkpoints import loading
from refrag_rag.checkpoints.machine import GIB, Machine, Needs, fitting
from refrag_rag.errors import MissingExtraError, missing
from refrag_rag.spans import wrap
from tests.conftest import build_model

PROMPT = f"{wrap('Velmora makes clocks in Port Belu. ' * 8)}\n\nWhat does Velmora make?"


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole") / "model"
    model.save_pretrained(place)
    return place


def test_an_unknown_one_or_one_for_gpus_is_refused_before_anything_is_read(folder):
    with pytest.raises(InputError, match="expected one of int8, int4, nf4"):
        RefragModel.from_pretrained(folder, quantization="int7")
    for name in ("int4", "nf4"):
        with pytest.raises(InputError, match="needs a CUDA device; expected 'int8'"):
            RefragModel.from_pretrained(folder, quantization=name)


def test_without_its_package_the_extra_is_named(folder):
    if not missing("quantization", ["torchao"]):
        pytest.skip("it is installed")
    with pytest.raises(MissingExtraError, match=r"refrag-rag\[quantization\]"):
        RefragModel.from_pretrained(folder, quantization="int8")


def test_int8_weights_are_rounded_and_the_rest_is_as_it_was(folder, model):
    pytest.importorskip("torchao")
    engine = Refrag.load(folder, quantization="int8", policy="perplexity", p=0.2)
    rounded, exact = engine.model.decoder.state_dict(), model.decoder.state_dict()
    apart = 0.0
    for name, tensor in exact.items():
        found = rounded[name]
        if type(found) not in (torch.Tensor, torch.nn.Parameter):
            found = found.dequantize()
            apart = max(apart, float((found - tensor).norm() / tensor.norm()))
            assert apart < 0.01
        else:
            torch.testing.assert_close(found, tensor)
    assert apart > 0
    assert engine.namespace == Refrag(model).namespace  # the encoder is the same
    answer = engine.generate(PROMPT, max_new_tokens=4)
    assert answer.counts.new_tokens
    engine.model.save_pretrained(folder.parent / "again")
    again = RefragModel.from_pretrained(folder.parent / "again").decoder.state_dict()
    assert all(torch.equal(again[n].dequantize(), t.dequantize()) for n, t in rounded.items())


def test_what_cannot_be_written_is_refused(tokenizer, tmp_path):
    model = build_model(tokenizer)
    model.decoder.hf_quantizer = object()
    model.decoder.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    with pytest.raises(CheckpointError, match="The decoder is quantised"):
        model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("kind", "gib", "expected"),
    [
        ("cpu", 64, ("cpu", "float32", None)),
        ("cpu", 24, ("cpu", "bfloat16", None)),
        ("cpu", 12, ("cpu", "bfloat16", "int8")),
        ("cuda", 80, ("cuda", "bfloat16", None)),
        ("cuda", 12, ("cuda", "bfloat16", "int8")),
        ("cuda", 7, ("cuda", "bfloat16", "int4")),
        ("mps", 4, ("mps", "bfloat16", "int8")),
    ],
)
def test_the_most_exact_loading_that_fits_is_picked_and_said(kind, gib, expected, caplog):
    caplog.set_level(logging.INFO)
    found = Needs(8 * 10**9, 16 * 10**9, 2**17, 2 * 32 * 8 * 128)
    assert tuple(fitting(Machine("here", gib * GIB, kind), found)) == expected
    assert f"picks {expected[0]}, {expected[1]}" in caplog.text


def test_auto_leaves_what_was_asked_for(folder, monkeypatch):
    here = Machine("here", 10**5, "cpu")
    monkeypatch.setattr(loading, "this_machine", lambda: Machine("here", 64 * GIB, "cpu"))
    assert RefragModel.from_pretrained(folder, device="auto").decoder.dtype == torch.float32
    loaded = RefragModel.from_pretrained(folder, device="auto", dtype="bfloat16")
    assert loaded.decoder.dtype == torch.bfloat16
    monkeypatch.setattr(loading, "this_machine", lambda: here)
    if missing("quantization", ["torchao"]):
        with pytest.raises(MissingExtraError):
            RefragModel.from_pretrained(folder, device="auto")
    else:
        small = RefragModel.from_pretrained(folder, device="auto")
        assert small.decoder.dtype == torch.bfloat16
