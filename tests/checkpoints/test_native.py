"""Saving and loading: same logits, nothing half written, clear errors."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from refrag_rag import CheckpointError, Refrag, RefragModel
from refrag_rag.checkpoints import resolve
from refrag_rag.model.projector import Projector
from tests.conftest import build_model
from tests.engine.test_engine import messages


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(model):
    engine = Refrag(model, policy="none")
    inputs = model.decoder_inputs([engine.compress(messages())])
    with torch.inference_mode():
        return model.decoder(inputs_embeds=inputs.inputs_embeds).logits


def test_saved_then_loaded_gives_identical_logits_and_fingerprint(model, folder):
    loaded = RefragModel.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.fingerprint == model.fingerprint
    assert loaded.config == model.config


def test_a_wide_projector_is_saved_and_loaded(tokenizer, tmp_path):
    model = build_model(tokenizer, pooling="concat", hidden=96)
    assert model.projector.hidden.out_features == 96
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(RefragModel.from_pretrained(tmp_path / "model")), logits(model))


def test_the_folder_is_made_of_ordinary_parts_without_pickle(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(folder / "decoder").config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(folder / "encoder").bos_token_id == 1
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "projector.safetensors" in names
    assert "refrag_config.json" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_saving_again_replaces_the_whole(tokenizer, folder):
    other = build_model(tokenizer, pooling="concat")
    other.save_pretrained(folder)
    assert RefragModel.from_pretrained(folder).config.pooling == "concat"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_dtype_is_taken(folder):
    loaded = RefragModel.from_pretrained(folder, dtype=torch.bfloat16)
    kinds = {parameter.dtype for parameter in loaded.parameters()}
    assert kinds == {torch.bfloat16}
    assert Refrag(loaded).generate(messages(), max_new_tokens=2).counts.new_tokens


def test_device_map_is_taken(folder, model):
    loaded = RefragModel.from_pretrained(folder, device_map="cpu")
    assert torch.equal(logits(loaded.float()), logits(model))


@pytest.mark.parametrize(
    "missing",
    ["refrag_config.json", "projector.safetensors", "decoder/config.json", "encoder/config.json"],
)
def test_a_half_written_folder_is_refused_with_what_is_missing(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing.split("/")[-1]):
        RefragModel.from_pretrained(folder)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_missing_or_cut_weights_are_refused(folder, part):
    path = folder / part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=part):
        RefragModel.from_pretrained(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=part):
        RefragModel.from_pretrained(folder)


def test_parts_that_do_not_belong_together(folder, tokenizer, tmp_path):
    build_model(tokenizer, pooling="concat").save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "projector.safetensors", folder / "projector.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        RefragModel.from_pretrained(folder)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_without_tokenizer_files(folder, part):
    for path in (folder / part).glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=f"No tokenizer in .*{part}"):
        RefragModel.from_pretrained(folder)


def test_a_projector_without_a_tensor(folder):
    path = folder / "projector.safetensors"
    tensors = load_file(path)
    tensors.pop("hidden.bias")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"hidden\.bias"):
        RefragModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "Upgrade"),
        ({"format_version": 1, "colour": "red"}, "colour"),
        ("no json", "cannot be read"),
        ([1], "cannot be read"),
    ],
)
def test_a_config_that_cannot_be_read(folder, change, message):
    path = folder / "refrag_config.json"
    if isinstance(change, dict):
        change = json.loads(path.read_text()) | change
    path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(CheckpointError, match=message):
        RefragModel.from_pretrained(folder)


def test_saving_over_something_else_is_refused(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="other files"):
        model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failing_save_leaves_the_old_checkpoint(model, folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("disk full")

    monkeypatch.setattr(model.encoder.model, "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        model.save_pretrained(folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]
    assert RefragModel.from_pretrained(folder).fingerprint == model.fingerprint


def test_an_unwritable_place(model, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "model")


@pytest.mark.parametrize("name", ["no-such-model", "./absent", "/absent/folder", "a/b/c"])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(CheckpointError, match="smol"):
        resolve(name)


def test_a_hub_id_that_cannot_be_reached(tmp_path):
    with pytest.raises(CheckpointError, match="hub model 'owner/name'"):
        resolve("owner/name", cache_dir=tmp_path, local_files_only=True)


def test_a_hub_id_in_the_cache_is_loaded(folder, model, tmp_path):
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    refs = tmp_path / "hub" / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    loaded = RefragModel.from_pretrained(
        "owner/name", cache_dir=tmp_path / "hub", local_files_only=True
    )
    assert loaded.fingerprint == model.fingerprint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_tensors_too_few_too_many_or_of_another_shape_are_named(folder, part):
    path = folder / part / "model.safetensors"
    whole = load_file(path)
    name = next(n for n in whole if n.endswith("weight") and "layer" in n)
    save_file({n: t for n, t in whole.items() if n != name}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.split(".")[-2]):
        RefragModel.from_pretrained(folder)
    save_file(whole | {"stranger.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"stranger\.weight"):
        RefragModel.from_pretrained(folder)
    save_file(whole | {name: torch.ones(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=part):
        RefragModel.from_pretrained(folder)


def test_pickles_are_refused(folder, model):
    path = folder / "decoder" / "model.safetensors"
    path.unlink()
    torch.save(model.decoder.state_dict(), folder / "decoder" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        RefragModel.from_pretrained(folder)


def test_a_folder_of_no_known_layout(tmp_path, model):
    model.decoder.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="compose"):
        RefragModel.from_pretrained(tmp_path)


def test_a_card_says_what_is_known(folder, model):
    card = (folder / "README.md").read_text("utf-8")
    assert "BertModel" in card
    assert "LlamaForCausalLM" in card
    assert f"{sum(p.numel() for p in model.decoder.parameters()):,}" in card
    assert "Not stated." in card


LOADING = """
import resource, sys
from refrag_rag import RefragModel
import refrag_rag.checkpoints, transformers.models.llama.modeling_llama
import transformers.models.bert.modeling_bert
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = RefragModel.from_pretrained(sys.argv[1])
sizes = [p.numel() * p.element_size() for p in model.parameters()]
print(peak() - before, sum(sizes), max(sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_loading_takes_the_weights_and_at_most_one_tensor_more(tokenizer, tmp_path):
    model = build_model(tokenizer)
    wide = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=3,
        num_attention_heads=8,
        pad_token_id=0,
    )
    config = dataclasses.replace(model.config, decoder_width=1024)
    RefragModel(
        config=config,
        encoder=model.encoder,
        projector=Projector(config.chunk_width, 1024),
        decoder=LlamaForCausalLM(wide),
        tokenizer=tokenizer,
    ).save_pretrained(tmp_path / "wide")
    command = [sys.executable, "-c", LOADING, str(tmp_path / "wide")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    extra, weights, largest = map(int, output.split())
    files = 40 * 2**20  # tokenizers, code and the allocator take some too
    assert extra < weights + largest + files
