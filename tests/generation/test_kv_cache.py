"""KV caches in fewer bits: answers by steps against whole forward passes, and what is refused."""

import pytest
import torch

from refrag_rag import InputError, Refrag
from refrag_rag.errors import MissingExtraError, missing
from refrag_rag.generation.decode import Steps
from refrag_rag.spans import wrap
from tests.conftest import build_model

PROMPTS = [f"{wrap('The mill stood by the river. ' * 30)} What stood?", "A short one."]
LACKING = missing("quantization", ["optimum.quanto"])
needs_quanto = pytest.mark.skipif(bool(LACKING), reason="lacks optimum-quanto")


def logits(model, steps=4):
    """Of the prefill and some steps, for a batch of two."""
    prompts = [Refrag(model).compress(prompt) for prompt in PROMPTS]
    read = Steps(model, model.decoder_inputs(prompts), None)
    found = [read.next([1, 2])] + [read.next([n, n + 1]) for n in range(20, 20 + steps)]
    return torch.stack(found), read.kept()


@pytest.mark.parametrize("kind", ["fp8", *(pytest.param(n, marks=needs_quanto) for n in ("int4",))])
def test_answers_are_nearly_those_of_whole_numbers(tiny_model, monkeypatch, kind):
    exact, whole = logits(tiny_model)
    monkeypatch.setattr(tiny_model, "kv_cache", kind)
    rounded, kept = logits(tiny_model)
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-4, atol=1e-5)  # the prefill
    assert 0 < (rounded[1:] - exact[1:]).abs().mean() < 0.15 * exact.std()
    assert (rounded.argmax(-1) == exact.argmax(-1)).float().mean() >= 0.8
    if kind == "fp8":
        keys, _ = kept.layers[0]._quantized_keys
        assert keys.element_size() == 1
        assert keys.shape == whole.layers[0].keys.shape


def test_an_engine_answers_with_it(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path)
    plain, rounded = (Refrag.load(tmp_path, kv_cache=one) for one in (None, "fp8"))
    found = rounded.generate_batch(PROMPTS, max_new_tokens=5)
    expected = plain.generate_batch(PROMPTS, max_new_tokens=5)
    assert [one.token_ids[0] for one in found] == [one.token_ids[0] for one in expected]
    assert "".join(d.text for d in rounded.stream(PROMPTS[0], max_new_tokens=5)) == found[0].text


@pytest.mark.parametrize(
    "settings",
    [
        {"kv_cache": "fp6"},
        {"kv_cache": "fp8", "compile": "graphs"},
        {"kv_cache": "fp8", "prompt_cache": 1},
        {"kv_cache": "fp8", "backend": "http://127.0.0.1:1/v1"},
    ],
)
def test_what_does_not_go_together_is_refused(tokenizer, tmp_path, settings):
    build_model(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="kv_cache"):
        Refrag.load(tmp_path, **settings)


@pytest.mark.skipif(not LACKING, reason="has optimum-quanto")
def test_a_missing_package_is_named(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(MissingExtraError, match=r"optimum\.quanto"):
        Refrag.load(tmp_path, kv_cache="int4")
