"""Distillation and LoRA: the teacher is full text, the original decoder comes back."""

from functools import partial

import pytest
import torch

from refrag_rag import RefragModel
from refrag_rag.training.batches import arrange, collate
from refrag_rag.training.loop import train
from refrag_rag.training.loss import distilled_rows, next_token_loss, next_token_sums
from refrag_rag.training.reading import Reader
from refrag_rag.training.stage import add_adapter, freeze
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, settings, some_rows


def test_full_text_has_nothing_to_learn_from_itself(tokenizer):
    reader = Reader(build_model(tokenizer))
    rows = [arrange(row.pieces, None) for row in some_rows()]
    plain, distilled = (
        next_token_loss(reader, rows, rows),
        distilled_rows(reader, rows, rows, weight=3.0),
    )
    torch.testing.assert_close(plain.loss, distilled.loss)


def test_the_divergence_is_from_the_full_text_distribution(tokenizer):
    reader = Reader(build_model(tokenizer))
    rows = some_rows(2)
    found = (
        distilled_rows(reader, rows, rows, weight=2.0).loss
        - next_token_loss(reader, rows, rows).loss
    )
    wanted = 0.0
    for row in rows:
        texts = collate([arrange(row.pieces, None)])
        mixed = collate([row])
        count = sum(row.targets)
        teacher = reader(texts)[0, -count - 1 : -1].log_softmax(-1)
        student = reader(mixed)[0, -count - 1 : -1].log_softmax(-1)
        wanted += (teacher.exp() * (teacher - student)).sum()
    torch.testing.assert_close(found, 2 * wanted, rtol=1e-4, atol=1e-4)


def test_silent_rows_distil_nothing(tokenizer):
    reader = Reader(build_model(tokenizer))
    rows = some_rows(2)
    alone = distilled_rows(reader, rows[:1], rows, weight=1.0)
    both = distilled_rows(reader, [rows[0], rows[1].silent()], rows, weight=1.0)
    torch.testing.assert_close(alone.loss, both.loss)


@pytest.fixture
def adapted(tokenizer, tmp_path):
    """A model whose decoder has an adapter, trained for three steps and saved."""
    model = build_model(tokenizer)
    before = {n: p.detach().clone() for n, p in model.decoder.state_dict().items()}
    freeze(model, [model])
    add_adapter(model, rank=4)
    objective = partial(distilled_rows, weight=0.5)
    train(
        Reader(model),
        source=FixedRows(some_rows()),
        settings=settings(tmp_path / "run"),
        folder=tmp_path / "run",
        objective=objective,
    )
    model.save_pretrained(tmp_path / "model")
    return model, before, tmp_path / "model"


def logits(model):
    rows = some_rows(2)
    batch = collate(rows)
    with torch.inference_mode():
        reader = Reader(model.eval())
        return reader(batch), reader(batch, read=next_token_sums)


def test_an_adapter_moves_and_its_decoder_does_not(adapted):
    model, before, _ = adapted
    now = model.decoder.state_dict()
    for name, tensor in before.items():
        found = now.get(name, now.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(found, tensor), name
    moved = [n for n, p in model.decoder.named_parameters() if p.requires_grad]
    assert moved
    assert all(".lora_" in name for name in moved)
    assert any(float(now[n].abs().sum()) > 0 for n in moved if ".lora_B." in n)


def test_saved_and_loaded_it_reads_the_same(adapted):
    model, _, folder = adapted
    assert sorted(
        p.name for p in (folder / "decoder_adapter").iterdir() if "README" not in p.name
    ) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = RefragModel.from_pretrained(folder)
    torch.testing.assert_close(logits(loaded)[0], logits(model)[0])


def test_switched_off_the_original_is_back_bit_for_bit(adapted):
    _, before, folder = adapted
    loaded = RefragModel.from_pretrained(folder, adapter=False)
    now = loaded.decoder.state_dict()
    assert set(now) == set(before)
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_an_adapter_that_is_merged_in_every_call_changes_no_loss_or_gradient(model):
    from refrag_rag.checkpoints.lora import multiply_merged

    add_adapter(model, rank=4)
    torch.manual_seed(0)
    factors = [p for n, p in model.decoder.named_parameters() if ".lora_" in n]
    for factor in factors:
        torch.nn.init.normal_(factor, std=0.1)
    embeds = torch.randn(2, 9, model.config.decoder_width)

    def outcome():
        model.zero_grad()
        logits = model.decoder(inputs_embeds=embeds).logits
        logits.square().mean().backward()
        return logits.detach(), [factor.grad.clone() for factor in factors]

    logits, gradients = outcome()
    multiply_merged(model.decoder)
    again, others = outcome()
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=2e-4)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-2, atol=1e-5)
