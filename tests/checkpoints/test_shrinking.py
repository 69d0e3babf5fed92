"""Smaller decoders: what is pruned, what two thin layers give back, and what is loaded again."""

import json

import pytest
import torch
from torch import nn

from refrag_rag import CheckpointError, InputError, Refrag, RefragModel
from refrag_rag.checkpoints import decoder_folder
from refrag_rag.checkpoints.factored import RANKS
from refrag_rag.checkpoints.shrinking import MADE, look, shrink
from tests.conftest import build_model

TEXTS = ["Velmora makes clocks in Port Belu by the river. " * 4, "The mill stood there."]
LAYER = "model.layers.0.mlp.down_proj"


def logits(model):
    ids = torch.tensor([model.tokenizer(TEXTS[0]).input_ids])
    with torch.inference_mode():
        return model.decoder(input_ids=ids).logits


def seen_by(model, *, whole=True):
    return look(model, [Refrag(model).compress(text) for text in TEXTS], whole=whole)


def test_inputs_are_looked_at_layer_by_layer(tokenizer):
    model = build_model(tokenizer)
    seen = []
    layer = model.decoder.get_submodule(LAYER)
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, -2)))
    found, squares = seen_by(model), seen_by(model, whole=False)
    hook.remove()
    rows = torch.cat(seen[: len(TEXTS)])
    torch.testing.assert_close(found[LAYER], rows.T @ rows / len(rows))
    torch.testing.assert_close(squares[LAYER], found[LAYER].diagonal())
    assert "lm_head" not in found
    assert not model.decoder.get_submodule(LAYER)._forward_pre_hooks


def test_wanda_takes_the_least_important_weights_of_every_output(tokenizer):
    model = build_model(tokenizer)
    before = {n: p.clone() for n, p in model.decoder.named_parameters()}
    found = seen_by(model, whole=False)
    scale = found[LAYER].sqrt()
    shrink(model, "wanda", 0.25, found)
    after = dict(model.decoder.named_parameters())
    old, new = before[f"{LAYER}.weight"], after[f"{LAYER}.weight"]
    assert torch.equal(new[new != 0], old[new != 0])
    count = old.shape[1] // 4
    for row, kept in zip(old.abs() * scale, new, strict=True):
        gone = (kept == 0).nonzero()[:, 0].tolist()
        assert sorted(gone) == sorted(row.argsort()[:count].tolist())
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_two_of_any_four_weights_go(tokenizer):
    model = build_model(tokenizer)
    before = model.decoder.get_submodule(LAYER).weight.detach().clone()
    found = seen_by(model)
    shrink(model, "wanda-2:4", 0.5, found)
    kept = model.decoder.get_submodule(LAYER).weight != 0
    important = (before.abs() * found[LAYER].diagonal().sqrt()).view(-1, 4)
    for four, stays in zip(important, kept.view(-1, 4), strict=True):
        assert set(four.argsort()[2:].tolist()) == set(stays.nonzero()[:, 0].tolist())


def test_thin_layers_change_what_is_said_least(tokenizer):
    model = build_model(tokenizer)
    products = seen_by(model)[LAYER].double()
    wide = model.decoder.get_submodule(LAYER).weight.detach().double()
    values, vectors = torch.linalg.eigh(products)
    values = torch.linalg.svdvals(wide @ vectors @ values.clamp(min=0).sqrt().diag())
    for rate in (0.2, 0.5, 0.8):
        again = build_model(tokenizer)
        shrink(again, "svd", rate, seen_by(again))
        first, second = again.decoder.get_submodule(LAYER).requires_grad_(False)
        rank = first.out_features
        change = (second.weight.double() @ first.weight.double()) - wide
        difference = (change @ products @ change.T).trace()  # mean square, by hand
        torch.testing.assert_close(difference, values[rank:].square().sum(), rtol=1e-3, atol=1e-6)
    assert (logits(again) - logits(model)).std() > 0


def test_every_layer_loses_one_share_and_all_lose_the_rate(tokenizer):
    model = build_model(tokenizer)
    shapes = {n: model.decoder.get_submodule(n).weight.shape for n in seen_by(model)}
    shrink(model, "svd", 0.3, seen_by(model))
    ranks = getattr(model.decoder.config, RANKS)
    saved = sum(shapes[n].numel() - r * sum(shapes[n]) for n, r in ranks.items())
    whole = sum(shape.numel() for shape in shapes.values())
    assert 0.3 <= saved / whole < 0.35  # one direction more or less is much in layers as small
    assert len(set(ranks.values())) > 1
    assert all(rank * sum(shapes[name]) < shapes[name].numel() for name, rank in ranks.items())


def test_a_factored_decoder_is_smaller_and_loaded_as_it_was(tokenizer, tmp_path):
    model = build_model(tokenizer)
    count = sum(p.numel() for p in model.decoder.model.layers.parameters())
    shrink(model, "svd", 0.5, seen_by(model))
    assert sum(p.numel() for p in model.decoder.model.layers.parameters()) < 0.56 * count
    model.save_pretrained(tmp_path / "small")
    assert "method svd, rate 0.5" in (tmp_path / "small" / "README.md").read_text()
    loaded = RefragModel.from_pretrained(tmp_path / "small")
    assert isinstance(loaded.decoder.get_submodule(LAYER), nn.Sequential)
    assert getattr(loaded.decoder.config, MADE) == {"method": "svd", "rate": 0.5}
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
    ("method", "rate"), [("gptq", 0.5), ("wanda", 1.0), ("svd", 0.0), ("wanda-2:4", 0.3)]
)
def test_what_cannot_be_done(tokenizer, method, rate):
    model = build_model(tokenizer)
    before, found = logits(model), seen_by(model)
    with pytest.raises(InputError, match=r"rate = |method = "):
        shrink(model, method, rate, found)
    assert torch.equal(logits(model), before)
    with pytest.raises(InputError, match="No prompt"):
        look(model, [], whole=True)
