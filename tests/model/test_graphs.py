"""Decoding at padded lengths with a static KV cache: the numbers of the plain path.

What is recorded on a GPU is run as it is here; that replaying does the same is CUDA's part.
"""

import threading

import pytest
import torch

from refrag_rag import Refrag
from refrag_rag.generation.decode import Steps
from refrag_rag.model import graphs as module
from refrag_rag.model.graphs import Graphs
from refrag_rag.spans import wrap
from tests.architectures import DECODERS
from tests.conftest import build_model

TEXTS = ["Velmora makes clocks in Port Belu.", "Tarsk is 2,310 metres high. " * 9, "Oslo."]


def as_it_is(run):
    return run


def prompts_of(model, count=3):
    engine = Refrag(model, policy="none", vectors="float32")
    texts = [f"Read: {wrap(text)}\n\nWhat does it say?" for text in TEXTS[:count]]
    return [engine.compress(text) for text in texts]


def logits_of(model, prompts, graphs, steps=4):
    """Logits of a prefill and further steps, *shape* (steps, B, vocabulary)."""
    model.graphs = graphs
    with torch.inference_mode():
        read = Steps(model, model.decoder_inputs(prompts), None)
        found, tokens = [], [0] * len(prompts)
        for number in range(steps):
            found.append(read.next(tokens))
            tokens = [(7 * number + row) % 50 + 3 for row in range(len(prompts))]
        read.close()
    model.graphs = None
    return torch.stack(found)


@pytest.mark.parametrize("architecture", DECODERS, ids=lambda one: one.name)
def test_padding_changes_no_number(architecture, tokenizer):
    model = build_model(tokenizer)
    model.decoder = architecture.model()
    assert model.decoder.get_input_embeddings().weight.shape == (len(tokenizer), 48)
    graphs = Graphs(model.decoder, capture=as_it_is)
    for count in (1, 3):
        prompts = prompts_of(model, count)
        plain = logits_of(model, prompts, None)
        padded = logits_of(model, prompts, graphs)
        torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-5)


def test_a_shape_is_recorded_once_and_the_oldest_goes(model, monkeypatch):
    monkeypatch.setattr(module, "SHAPES", 2)
    recorded = []

    def capture(run):
        recorded.append(run)
        return run

    graphs = Graphs(model.decoder, capture)
    for count in (1, 1, 2, 3, 3, 1):
        logits_of(model, prompts_of(model, count), graphs)
    assert len(recorded) == 2 * 4  # prefill and step of 1, 2, 3 and, gone meanwhile, 1


def test_an_answer_longer_than_its_shape_goes_on_without(model, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 3)
    prompts = prompts_of(model)
    graphs = Graphs(model.decoder, capture=as_it_is)
    plain, padded = (logits_of(model, prompts, one, steps=9) for one in (None, graphs))
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-5)
    assert graphs.start(model.decoder_inputs(prompts)) is not None


def test_two_answers_at_once_do_not_share_tensors(model):
    graphs, prompts = Graphs(model.decoder, capture=as_it_is), prompts_of(model)
    plain = logits_of(model, prompts, None)
    with torch.inference_mode():
        held = graphs.start(model.decoder_inputs(prompts))
        other = []
        thread = threading.Thread(target=lambda: other.append(logits_of(model, prompts, graphs)))
        thread.start()
        thread.join()
        held.close()
    torch.testing.assert_close(other[0], plain)


def test_answers_and_kept_caches_are_those_of_the_plain_path(tokenizer):
    model = build_model(tokenizer)
    texts = [f"{wrap(text)}\n\nWhat?" for text in TEXTS]

    def answers(graphs):
        model.graphs = graphs
        engine = Refrag(model, policy="none", prompt_cache=2)
        single = [engine.generate(text, max_new_tokens=6) for text in texts]
        again = engine.generate(f"{texts[1]}{single[1].text} And now?", max_new_tokens=6)
        together = engine.generate_batch(texts, max_new_tokens=6)
        model.graphs = None
        return [one.token_ids for one in (*single, again, *together)], again.counts

    plain, by_graphs = answers(None), answers(Graphs(model.decoder, capture=as_it_is))
    assert by_graphs == plain
    assert plain[1].reused_positions > 0


def test_a_decoder_that_cannot_be_recorded_is_decoded_plainly(model, caplog):
    def broken(_run):
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs, prompts = Graphs(model.decoder, capture=broken), prompts_of(model)
    torch.testing.assert_close(logits_of(model, prompts, graphs), logits_of(model, prompts, None))
    assert "cannot be recorded" in caplog.text
    assert len(caplog.records) == 1


def test_on_a_cpu_graphs_are_off_and_this_is_said(model, tmp_path, caplog):
    model.save_pretrained(tmp_path / "model")
    engine = Refrag.load(tmp_path / "model", compile="graphs")
    assert engine.model.graphs is None
    assert "does nothing on cpu" in caplog.text
