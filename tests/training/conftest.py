"""Parts for training: folders of small random models, and prepared text and questions."""

import json
from random import Random

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from recipes.tiny.world import World
from refrag_rag.training.data.prepare import prepare


@pytest.fixture(scope="session")
def parts(tokenizer, tmp_path_factory):
    """An encoder and a decoder folder as they come from the hub: two layers, random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    decoder = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    BertModel(encoder, add_pooling_layer=False).save_pretrained(folder / "encoder")
    LlamaForCausalLM(decoder).save_pretrained(folder / "decoder")
    for name in ("encoder", "decoder"):
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def prepared(tokenizer, tmp_path_factory):
    """Prepared text and questions, made of the invented world."""
    folder = tmp_path_factory.mktemp("prepared")
    rng, world = Random(0), World()
    texts = [" ".join(world.entity(rng, facts=8).passage(rng) for _ in range(6)) for _ in range(30)]
    questions = []
    for number in range(40):
        entities = world.entities(rng, 3, facts=3)
        fact = entities[0].facts[0]
        questions.append(
            {
                "id": f"q{number}",
                "question": entities[0].question(fact, rng),
                "contexts": [
                    {"text": one.passage(rng), "gold": one is entities[0]} for one in entities
                ],
                "answers": [fact.value],
            }
        )
    for name, records in (("text", [{"text": text} for text in texts]), ("questions", questions)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        prepare([folder / f"{name}.jsonl"], tokenizer, folder / name, name)
    return folder
