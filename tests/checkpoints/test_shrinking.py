"""Smaller decoders: what is pruned, what two thin layers give back, and what is loaded again."""

import json

import pytest
import torch
from torch import nn

from refrag_rag import CheckpointError, InputError, Refrag, RefragModel
from refrag_rag.checkpoints import decoder_folder
from refrag_rag.checkpoints.factored import RANKS, factorise
from refrag_rag.checkpoints.shrinking import look, shrink
from tests.conftest import build_model

TEXTS = ["Velmora makes clocks in Port Belu by the river. " * 4, "The mill stood there."]
LAYER = "model.layers.0.mlp.down_proj"


def logits(model):
    ids = torch.tensor([model.tokenizer(TEXTS[0]).input_ids])
    with torch.inference_mode():
        return model.decoder(input_ids=ids).logits


def test_inputs_are_looked_at_layer_by_layer(tokenizer):
    model = build_model(tokenizer)
    seen = []
    layer = model.decoder.get_submodule(LAYER)
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, -2)))
    found = look(model, TEXTS)
    hook.remove()
    expected = torch.cat(seen).square().mean(0).sqrt()
    torch.testing.assert_close(found[LAYER], expected)
    assert "lm_head" not in found
    assert not model.decoder.get_submodule(LAYER)._forward_pre_hooks


def test_wanda_takes_the_least_important_weights_of_every_output(tokenizer):
    model = build_model(tokenizer)
    before = {n: p.clone() for n, p in model.decoder.named_parameters()}
    scale = look(model, TEXTS)[LAYER]
    shrink(model, "wanda", 0.25, TEXTS)
    after = dict(model.decoder.named_parameters())
    old, new = before[f"{LAYER}.weight"], after[f"{LAYER}.weight"]
    assert torch.equal(new[new != 0], old[new != 0])
    count = old.shape[1] // 4
    for row, kept in zip(old.abs() * scale, new, strict=True):
        gone = (kept == 0).nonzero()[:, 0].tolist()
        assert sorted(gone) == sorted(row.argsort()[:count].tolist())
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_the_best_thin_layers_for_the_inputs(tokenizer):
    model = build_model(tokenizer)
    scale = look(model, TEXTS)[LAYER]
    wide = model.decoder.get_submodule(LAYER).weight.detach().clone()
    errors = []
    for rank in (4, 16, min(wide.shape)):
        again = build_model(tokenizer)
        factorise(again.decoder, LAYER, rank, scale)
        first, second = again.decoder.get_submodule(LAYER).requires_grad_(False)
        assert (first.out_features, second.in_features) == (rank, rank)
        difference = ((second.weight @ first.weight - wide) * scale).norm()
        values = torch.linalg.svdvals(wide * scale)[rank:]
        torch.testing.assert_close(difference, values.norm(), rtol=1e-3, atol=1e-3)
        errors.append(float(difference))
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-3, atol=1e-3)


def test_a_factored_decoder_is_smaller_and_loaded_as_it_was(tokenizer, tmp_path):
    model = build_model(tokenizer)
    count = sum(p.numel() for p in model.decoder.model.layers.parameters())
    shrink(model, "svd", 0.5, TEXTS)
    assert sum(p.numel() for p in model.decoder.model.layers.parameters()) < 0.56 * count
    model.save_pretrained(tmp_path / "small")
    loaded = RefragModel.from_pretrained(tmp_path / "small")
    assert isinstance(loaded.decoder.get_submodule(LAYER), nn.Sequential)
    assert torch.equal(logits(loaded), logits(model))
    answers = [Refrag(one).generate(TEXTS[0], max_new_tokens=5) for one in (model, loaded)]
    assert answers[0].token_ids == answers[1].token_ids
    assert loaded.fingerprint == model.fingerprint  # the encoder is another part
    with pytest.raises(CheckpointError, match="factored"):
        decoder_folder(tmp_path / "small")
    with pytest.raises(InputError, match="factored"):
        RefragModel.from_pretrained(tmp_path / "small", quantization="int8")
    path = tmp_path / "small" / "decoder" / "config.json"
    config = json.loads(path.read_text())
    config[RANKS][LAYER] += 1
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=RANKS):
        RefragModel.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize(
    ("method", "rate", "texts"),
    [("gptq", 0.5, TEXTS), ("wanda", 1.0, TEXTS), ("svd", 0.0, TEXTS), ("svd", 0.2, [])],
)
def test_what_cannot_be_done(tokenizer, method, rate, texts):
    model = build_model(tokenizer)
    before = logits(model)
    with pytest.raises(InputError):
        shrink(model, method, rate, texts)
    assert torch.equal(logits(model), before)
