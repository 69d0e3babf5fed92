"""Losses at the places that count, in parts, against the plain path over all logits."""

import pytest
import torch
import transformers as hf
from torch.nn.functional import cross_entropy

from refrag_rag.training import loss
from refrag_rag.training.batches import CollatedRows, collate
from refrag_rag.training.loss import next_token_loss
from refrag_rag.training.reading import Reader, splits
from tests.architectures import DECODERS, ENCODERS, GROUPED, Architecture
from tests.conftest import build_model
from tests.model.test_architectures import joined
from tests.training.test_loop import some_rows

SCALED = (
    Architecture("Gemma 2", lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GROUPED, head_dim=12))),
    Architecture(
        "Granite",
        lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED, logits_scaling=3.0)),
    ),
    Architecture("Cohere", lambda: hf.CohereForCausalLM(hf.CohereConfig(**GROUPED))),
)


def plain(model, rows):
    """Every row by itself, with its mask, from all of its logits."""
    total = 0.0
    for row in rows:
        batch = collate([row])
        vectors = model.encoder(
            model.encoder.cutter.stack(
                [window for passage in row.passages for window in model.encoder.windows(passage)]
            )
        )[batch.chosen]
        logits = model(batch.input_ids, batch.vector_mask, vectors, batch.attention_mask)[0, :-1]
        losses = cross_entropy(logits, batch.input_ids[0, 1:], reduction="none")
        total = total + (losses * batch.weights[0, 1:]).sum()
    return total


@pytest.mark.parametrize("architecture", DECODERS + SCALED, ids=lambda one: one.name)
def test_the_loss_is_that_of_the_plain_path(tokenizer, architecture, monkeypatch):
    monkeypatch.setattr(loss, "PART", 7)
    model = joined(tokenizer, ENCODERS[0].model(), architecture.model())
    assert splits(model.decoder) == (architecture not in SCALED)
    rows = some_rows(3)
    found = next_token_loss(Reader(model), rows, rows)
    torch.testing.assert_close(found.loss, plain(model, rows), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_plain_path(tokenizer, monkeypatch):
    monkeypatch.setattr(loss, "PART", 7)
    model, rows = build_model(tokenizer, pooling="concat").double(), some_rows(3)
    wanted = torch.autograd.grad(plain(model, rows), list(model.parameters()), allow_unused=True)
    ahead = collate(rows, cutter=model.encoder.cutter, most=2048)
    assert ahead.input_ids.shape[1] % 32 == ahead.windows.ids.shape[1] % 32 == 0
    for part in (rows, CollatedRows(rows, ahead)):
        model.zero_grad()
        next_token_loss(Reader(model), part, rows).loss.backward()
        for parameter, one in zip(model.parameters(), wanted, strict=True):
            if one is not None:
                torch.testing.assert_close(parameter.grad, one)


def test_windows_without_a_vector_are_not_read(tokenizer):
    model, (row,) = build_model(tokenizer, window=8), some_rows(1)
    windows = collate([row], cutter=model.encoder.cutter).windows
    assert len(windows.ids) == len(windows.places) == sum(row.chosen) < len(row.chosen)


def test_no_more_logits_exist_than_those_of_a_part(tokenizer, monkeypatch):
    monkeypatch.setattr(loss, "PART", 7)
    model, rows, seen = build_model(tokenizer), some_rows(3), []
    reader = Reader(model)
    model.decoder.lm_head.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    next_token_loss(reader, rows, rows).loss.backward()
    assert max(shape.numel() for shape in seen) == 7 * len(tokenizer)
