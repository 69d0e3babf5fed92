"""The world's stages move what they claim, and train on what the engine reads."""

from random import Random

import pytest
import torch
from torch import nn

from recipes.tiny.growth import ChunkGrowth
from recipes.tiny.layout import lay_out
from recipes.tiny.levels import LevelCurriculum
from recipes.tiny.sources import (
    WorldChunks,
    WorldMixture,
    WorldText,
    reconstruction_rows,
)
from recipes.tiny.tasks import Exchange, Level, Mix, Tasks
from recipes.tiny.world import Told, World
from refrag_rag import Refrag
from refrag_rag.spans import wrap
from refrag_rag.training.batches import collate
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.loop import train
from refrag_rag.training.loss import next_token_sums
from refrag_rag.training.prompts import STYLES
from refrag_rag.training.reading import Reader
from refrag_rag.training.settings import LoopSettings
from refrag_rag.training.stage import freeze
from tests.conftest import build_model

PASSAGES = [
    Told("Velmora\nVelmora makes clocks in Port Belu."),
    Told("# Tarsk\n\nTarsk is 2,310 metres high."),
]


@pytest.fixture
def tasks(tokenizer):
    return Tasks(World(), tokenizer.backend_tokenizer, Mix(questions=3))


def copy_of(module: nn.Module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before, module: nn.Module):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("style", STYLES)
def test_training_sequences_are_what_the_engine_reads(tasks, model, style):
    pieces = tasks.render(PASSAGES, [Exchange("Who?", "Me")], style)
    ids = [i for piece in pieces for i in piece.ids]
    context = "\n\n".join(wrap(passage.text) for passage in PASSAGES)
    inside = style.context_in_system
    system = style.system + context if inside else style.system
    user = f"{style.between}Who?{style.after}"
    user = user if inside else f"{style.before}{context}{user}"
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    prompt = Refrag(model).compress(messages, policy="all")
    answer = [*tasks.encode("Me"), tasks.roles["end"]]
    assert ids == prompt.ids.tolist() + answer


def loop_settings(folder, steps):
    return LoopSettings(out=folder, steps=steps, lr=1e-2)


def test_reconstruction_moves_encoder_and_projector_only(tokenizer, tasks, tmp_path):
    model = build_model(tokenizer, pooling="concat")
    before = copy_of(model)
    freeze(model, [model.encoder, model.projector])
    source = WorldChunks(tasks, LengthCurriculum((1, 2)), ChunkGrowth(8))
    train(Reader(model), source=source, settings=loop_settings(tmp_path, 2), folder=tmp_path)
    changed = moved(before, model)
    assert {name.split(".")[0] for name in changed} == {"encoder", "projector"}
    assert {n for n in before if n.startswith("projector")} <= changed


def mixture(tasks):
    return WorldMixture(
        tasks,
        LevelCurriculum(start=2, threshold=0.8),
        ChunkGrowth(8, start=2),
        reconstruction=(0.5, 0.5),
        text_shares=(0.0, 0.3, 1.0),
    )


def test_pretraining_moves_every_part(tokenizer, tasks, tmp_path):
    model = build_model(tokenizer, pooling="concat")
    before = copy_of(model)
    freeze(model, [model])
    settings = loop_settings(tmp_path, 4)
    train(Reader(model), source=mixture(tasks), settings=settings, folder=tmp_path)
    assert {name.split(".")[0] for name in moved(before, model)} == {
        "encoder",
        "projector",
        "decoder",
    }


def test_a_mixture_goes_on_with_the_same_rows(tasks):
    source, again = mixture(tasks), mixture(tasks)
    for step in range(12):
        source.draw(Random(step), step / 12)
        source.record(1.0, 0.5 + step / 100)
    again.restore(source.state())
    assert again.draw(Random(99), 0.5) == source.draw(Random(99), 0.5)
    assert again.summary() == source.summary()


def test_the_loss_is_the_models_own_on_full_text(tokenizer, tasks):
    model = build_model(tokenizer)
    pieces = tasks.render(PASSAGES, [Exchange("Who?", "Me")], STYLES[0])
    batch = collate(lay_out([pieces], Random(0), k=8))
    sums = Reader(model)(batch, read=next_token_sums)
    logits = model.decoder(input_ids=batch.input_ids).logits[0, :-1]
    losses = nn.functional.cross_entropy(logits, batch.input_ids[0, 1:], reduction="none")
    torch.testing.assert_close(sums.loss, (losses * batch.weights[0, 1:]).sum())


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_mixed_batch_reads_the_chunks_that_stand_in_it(tokenizer, tasks, share):
    model = build_model(tokenizer, pooling="concat")
    pieces = tasks.render(
        [Told(PASSAGES[0].text * 4), PASSAGES[1]], [Exchange("Who?", "Me")], STYLES[0]
    )
    batch = collate(lay_out([pieces, pieces], Random(1), k=8, text_share=share))
    assert batch.vector_mask.sum() == batch.chosen.sum()
    assert (batch.chosen.all()) == (share == 0)
    Reader(model)(batch, read=next_token_sums).loss.backward()
    assert model.encoder.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_reconstruction_targets_are_the_chunks_own_tokens(tasks):
    rows = reconstruction_rows(Random(0), tasks, chunks=2, k=8, positions=200)
    for row in rows:
        passage = row.passages[0].token_ids
        assert row.target_ids() == (*passage, tasks.roles["end"])


def test_a_restatement_says_every_sentence_again_and_targets_the_values(tasks, tokenizer):
    rng = Random(3)
    pieces = tasks.restatement(rng, Level(2, 3, 1.0))
    passages = [tokenizer.decode(piece.ids) for piece in pieces if piece.passage]
    assistant = next(n for n, p in enumerate(pieces) if list(p.ids) == [tasks.roles["assistant"]])
    after = pieces[assistant + 1 :]
    said = tokenizer.decode([i for piece in after for i in piece.ids])
    sentences = [s.strip() for s in said.replace(". ", ".\n").splitlines()]
    told = " ".join(passages)
    assert len(sentences) >= 6
    assert all(sentence in told for sentence in sentences)
    assert sum(piece.target for piece in after) == 6


def test_restated_steps_do_not_move_the_curriculum(tasks):
    curriculum = LevelCurriculum((Level(1, 2, 1.0),), patience=1)
    source = WorldText(tasks, curriculum, restating=1.0)
    source.draw(Random(0), 0.0)
    source.record(0.0, 1.0)
    assert curriculum.accuracy == [0.0]
    source = WorldText(tasks, curriculum, restating=0.0)
    source.draw(Random(0), 0.0)
    source.record(0.0, 1.0)
    assert curriculum.accuracy == [1.0]
