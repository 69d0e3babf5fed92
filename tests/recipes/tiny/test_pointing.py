"""Pointing: links lead to where a value stands, and its loss is the decoder's own attention."""

from random import Random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from recipes.tiny.base import BaseSettings
from recipes.tiny.finetune import FinetuneSettings
from recipes.tiny.layout import lay_out, links
from recipes.tiny.pointing import Pointing, pointing_objective
from recipes.tiny.pretrain import PretrainSettings
from recipes.tiny.sources import reconstruction_rows
from recipes.tiny.tasks import Level, Mix, Tasks
from recipes.tiny.world import World
from refrag_rag.errors import InputError
from refrag_rag.model.compiling import compiled, missing_tools
from refrag_rag.training.batches import arrange, collate, gold
from refrag_rag.training.loss import next_token_loss
from refrag_rag.training.reading import Reader, embed_chosen
from refrag_rag.training.stage import add_adapter
from tests.conftest import build_model

LEVEL = Level(3, 3)


@pytest.fixture
def tasks(tokenizer):
    mix = Mix(copy=0.0, retell=0.0, joined=0.5)
    return Tasks(World(), tokenizer.backend_tokenizer, mix)


def rows_of(tasks, share, count=3):
    rng = Random(count)
    return lay_out([tasks.example(rng, LEVEL) for _ in range(count)], rng, k=8, text_share=share)


def first_tokens(row):
    """Positions at which the first token of an answer is to come next."""
    return [place - 1 for place, target in enumerate(row.targets) if target]


def is_read_where_it_is_linked(row, link, tokenizer):
    """Whether a token of an answer also stands in the passage, or begins alike."""
    here, there = link
    said, read = (tokenizer.decode([row.ids[place]]).strip() for place in (here + 1, there))
    return there < here and (said.startswith(read) or read.startswith(said))


def test_links_of_text_lead_to_the_passages_own_words(tasks, tokenizer):
    for row in rows_of(tasks, 1.0, 8):
        assert set(first_tokens(row)) <= {here for here, _ in links(row)}
        assert all(is_read_where_it_is_linked(row, link, tokenizer) for link in links(row))


def test_links_of_vectors_lead_to_the_chunk_of_the_word(tasks, tokenizer):
    for row in rows_of(tasks, 0.0, 8):
        chunks = iter([ids for passage in row.passages for ids in passage.chunk_ids()])
        at = {place: next(chunks) for place, is_vector in enumerate(row.vectors) if is_vector}
        assert set(first_tokens(row)) <= {here for here, _ in links(row)}
        for here, there in links(row):
            said = tokenizer.decode([row.ids[here + 1]]).strip()
            chunk = tokenizer.decode(at[there])
            assert said in chunk or any(chunk.endswith(said[:n]) for n in range(1, len(said)))


def test_what_is_said_again_leads_to_its_passage(tasks, tokenizer):
    row = lay_out([tasks.restatement(Random(4), LEVEL)], Random(0), k=8)[0]
    assert [here for here, _ in links(row)] == first_tokens(row)
    assert len(links(row)) == LEVEL.passages * LEVEL.facts
    assert all(is_read_where_it_is_linked(row, link, tokenizer) for link in links(row))


@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
def test_the_loss_is_the_attention_of_half_the_heads(tokenizer, tasks, share):
    model = build_model(tokenizer)
    with torch.no_grad():  # no probability so small that it is flushed to zero
        model.decoder.model.layers[-1].self_attn.q_proj.weight.mul_(0.05)
    rows = rows_of(tasks, share)
    reader, weight = Reader(model), 0.7
    objective = Pointing(model.decoder, weight)
    added = objective(reader, rows, rows).loss - next_token_loss(reader, rows, rows).loss
    model.decoder.set_attn_implementation("eager")
    wanted = 0.0
    with torch.no_grad():
        for row in rows:
            batch = collate([row])
            embeds = model.embed(batch.input_ids, batch.vector_mask, embed_chosen(model, batch))
            attention = model.decoder(inputs_embeds=embeds, output_attentions=True).attentions[-1]
            half = attention[0, : attention.shape[1] // 2]  # (half, T, T)
            wanted -= sum(half[:, here, there].log().mean() for here, there in links(row))
    torch.testing.assert_close(added, weight * wanted, rtol=1e-4, atol=1e-3)


def test_attention_learns_to_look_there(tokenizer, tasks):
    model = build_model(tokenizer)
    reader, rows = Reader(model), rows_of(tasks, 0.3)
    objective = Pointing(model.decoder, 1.0)
    attention = model.decoder.model.layers[-1].self_attn
    optimizer = torch.optim.Adam([attention.q_proj.weight, attention.k_proj.weight], lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = objective(reader, rows, rows).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach() - next_token_loss(reader, rows, rows).loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_rows_without_answers_and_silent_rows_add_nothing(tokenizer, tasks):
    reader = Reader(build_model(tokenizer))
    objective = Pointing(reader.model.decoder, 1.0)
    rebuilt = reconstruction_rows(Random(0), tasks, chunks=2, k=8, positions=200)
    rows = rows_of(tasks, 0.5)
    for some in (rebuilt, [row.silent() for row in rows]):
        plain = next_token_loss(reader, some, some).loss
        torch.testing.assert_close(objective(reader, some, some).loss, plain)
    alone, both = ([rows[0]], [rows[0], rows[1].silent()])
    torch.testing.assert_close(
        objective(reader, alone, rows).loss, objective(reader, both, rows).loss
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(bool(missing_tools()), reason=f"lacks {missing_tools()}")
def test_compiled_it_is_the_same(tokenizer, tasks):
    model = build_model(tokenizer)
    reader, rows = Reader(model), rows_of(tasks, 0.3)
    objective = Pointing(model.decoder, 1.0)
    losses, gradients = [], []
    for wanted in (False, True):
        model.zero_grad()
        with compiled(reader, wanted=wanted):
            loss = objective(reader, rows, rows).loss
            loss.backward()
        losses.append(loss.detach())
        gradients.append(model.decoder.model.layers[-1].self_attn.k_proj.weight.grad.clone())
    torch.testing.assert_close(losses[1], losses[0])
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)


def test_an_adapter_is_shown_too(tokenizer, tasks):
    model = build_model(tokenizer)
    add_adapter(model, rank=2)
    objective, rows = Pointing(model.decoder, 1.0), rows_of(tasks, 0.3)
    reader = Reader(model)
    (objective(reader, rows, rows).loss - next_token_loss(reader, rows, rows).loss).backward()
    attention = model.decoder.model.layers[-1].self_attn
    moved = [n for n, p in attention.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.split(".")[0] for name in moved} == {"q_proj", "k_proj"}


def test_weight_0_is_the_loss_alone(tokenizer):
    assert pointing_objective(build_model(tokenizer).decoder, 0.0) is next_token_loss


def test_what_cannot_be_pointed_at_is_named(tmp_path):
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(InputError, match="expected a LlamaForCausalLM"):
        Pointing(gpt, 1.0)
    for kind in (BaseSettings, PretrainSettings, FinetuneSettings):
        with pytest.raises(InputError, match=r"pointing = -1"):
            kind(out=tmp_path, pointing=-1.0)
    row = arrange([gold([1, 2])], None)
    with pytest.raises(TypeError, match="MarkedPiece"):
        links(row)
