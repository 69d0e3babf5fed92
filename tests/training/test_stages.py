"""Stages move what they claim, go on where they stopped, and train on what the engine reads."""

from functools import partial
from random import Random

import pytest
import torch
from torch import nn

from refrag_rag import Refrag
from refrag_rag.spans import wrap
from refrag_rag.training import reconstruct
from refrag_rag.training.base import full_text_loss
from refrag_rag.training.batches import collate
from refrag_rag.training.curriculum import Curriculum
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.loop import LoopConfig, train
from refrag_rag.training.pretrain import MixedCurriculum, mixed_loss
from refrag_rag.training.prompts import STYLES
from refrag_rag.training.reading import read
from refrag_rag.training.reconstruct import reconstruction_loss
from refrag_rag.training.tasks import Mix, Tasks
from refrag_rag.training.world import World
from tests.conftest import build_model

PASSAGES = ["Velmora\nVelmora makes clocks in Port Belu.", "# Tarsk\n\nTarsk is 2,310 metres high."]


@pytest.fixture
def tasks(tokenizer):
    return Tasks(World(), tokenizer.backend_tokenizer, Mix(questions=3))


def copy_of(module: nn.Module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before, module: nn.Module):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("style", STYLES)
def test_training_sequences_are_what_the_engine_reads(tasks, model, style):
    pieces = tasks.render(PASSAGES, [("Who?", "Me")], style)
    ids = [i for piece in pieces for i in piece.ids]
    context = "\n\n".join(wrap(passage) for passage in PASSAGES)
    inside = style.context_in_system
    system = style.system + context if inside else style.system
    user = f"{style.between}Who?{style.after}"
    user = user if inside else f"{style.before}{context}{user}"
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    prompt = Refrag(model).compress(messages, policy="all")
    answer = [*tasks.encode("Me"), tasks.roles["end"]]
    assert ids == prompt.token_ids() + answer


def test_reconstruction_moves_encoder_and_projector_only(tokenizer, tasks, tmp_path):
    model = build_model(tokenizer, pooling="concat")
    before = copy_of(model)
    lengths = LengthCurriculum(ChunkGrowth(8), (1, 2))
    train(
        model,
        trainable=[*model.encoder.parameters(), *model.projector.parameters()],
        loss=partial(reconstruction_loss, tasks=tasks, lengths=lengths),
        curriculum=lengths,
        config=LoopConfig(2, 1e-2, warmup=1),
        folder=tmp_path,
    )
    changed = moved(before, model)
    assert {name.split(".")[0] for name in changed} == {"encoder", "projector"}
    assert {n for n in before if n.startswith("projector")} <= changed


def test_pretraining_moves_every_part(tokenizer, tasks, tmp_path):
    model = build_model(tokenizer, pooling="concat")
    before = copy_of(model)
    curriculum = MixedCurriculum(ChunkGrowth(8), reconstruction=(0.5, 0.5))
    train(
        model,
        trainable=model.parameters(),
        loss=partial(mixed_loss, tasks=tasks, curriculum=curriculum),
        curriculum=curriculum,
        config=LoopConfig(3, 1e-2, warmup=1),
        folder=tmp_path,
    )
    assert {name.split(".")[0] for name in moved(before, model)} == {
        "encoder",
        "projector",
        "decoder",
    }


class Stopped(RuntimeError):
    """The machine goes away."""


def run_base(tokenizer, tasks, folder, stop_at=None):
    model = build_model(tokenizer).decoder
    curriculum = Curriculum()
    calls = []

    def loss(*arguments, **options):
        calls.append(1)
        if stop_at and len(calls) == stop_at:
            raise Stopped
        return full_text_loss(*arguments, **options, tasks=tasks, curriculum=curriculum)

    train(
        model,
        trainable=model.parameters(),
        loss=loss,
        curriculum=curriculum,
        config=LoopConfig(4, 1e-3, warmup=2, save_every=2),
        folder=folder,
    )
    return model, curriculum


def test_a_stopped_run_goes_on_to_the_same_weights(tokenizer, tasks, tmp_path):
    whole, curriculum = run_base(tokenizer, tasks, tmp_path / "whole")
    with pytest.raises(Stopped):
        run_base(tokenizer, tasks, tmp_path / "cut", stop_at=4)
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["state.safetensors"]
    resumed, again = run_base(tokenizer, tasks, tmp_path / "cut")
    assert again.state() == curriculum.state()
    assert not moved(copy_of(whole), resumed)


def test_the_loss_is_the_models_own_on_full_text(tokenizer, tasks):
    model = build_model(tokenizer)
    pieces = tasks.render(PASSAGES, [("Who?", "Me")], STYLES[0])
    batch = collate([pieces], Random(0))
    value, _, _ = read(model, batch)
    logits = model.decoder(input_ids=batch.input_ids).logits[0, :-1]
    losses = nn.functional.cross_entropy(logits, batch.input_ids[0, 1:], reduction="none")
    weights = batch.weights[0, 1:]
    torch.testing.assert_close(value, (losses * weights).sum() / weights.sum())


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_mixed_batch_reads_the_chunks_that_stand_in_it(tokenizer, tasks, share):
    model = build_model(tokenizer, pooling="concat")
    pieces = tasks.render([PASSAGES[0] * 4, PASSAGES[1]], [("Who?", "Me")], STYLES[0])
    batch = collate([pieces, pieces], Random(1), text_share=share)
    assert batch.vector_mask.sum() == batch.chosen.sum()
    assert (batch.chosen.all()) == (share == 0)
    value, _, _ = read(model, batch)
    value.backward()
    assert model.encoder.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_reconstruction_targets_are_the_chunks_own_tokens(tasks):
    batch = reconstruct.reconstruction_batch(Random(0), tasks, chunks=2, k=8, positions=200)
    for row, window in enumerate(batch.windows):
        targets = [i for i in batch.labels[row].tolist() if i != -100]
        assert targets == [*window, tasks.roles["end"]]
