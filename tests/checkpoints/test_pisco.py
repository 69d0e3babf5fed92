"""PISCO's and CLaRa's layout: converted, our decoder inputs are those of a plain reading of it."""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import MistralConfig, MistralForCausalLM

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, Refrag, RefragModel
from refrag_rag.checkpoints import convert
from refrag_rag.checkpoints.pisco import ADAPTERS, CONFIG, LAYERS
from refrag_rag.cli import main
from refrag_rag.spans import wrap

K, WINDOW, RANK = 4, 16, 4
COUNT = WINDOW // K
SYSTEM = "You are a helpful assistant."
WORDS = (
    "Anna Keld founded Velmora Works in 1912 - 2,310 metres, naïve 時計 clocks; 'Port Belu'."
).split()


@dataclass
class Written:
    """A checkpoint on disk, its base, and the model that it was made of."""

    folder: Path
    base: Path
    model: Any
    tokenizer: Any
    memory: list[str]


def write(root: Path, kind: str, *, different: bool = True) -> Written:
    """As the authors' code writes it: peft's names, two pickles of tensors and a config."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(World(), vocab_size=600, passages=200, seed=0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=None,
            max_position_embeddings=2048,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    base, folder = root / "base", root / "checkpoint"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    memory = [f"<MEM{i}>" for i in range(COUNT)] if different else ["<MEM>"] * COUNT
    added = [*dict.fromkeys(memory), "<AE>", "<ENC>", "<SEP>"]
    tokenizer.add_tokens(added, special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    names = ["encoder_adapter", "decoder_adapter"]
    names += ["query_reasoner_adapter"] * (kind == "CLaRa")
    for name in names:
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
        lora.task_type = "CAUSAL_LM"
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a second one
            model.add_adapter(lora, name)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder.mkdir()
    torch.save({name: model.get_adapter_state_dict(name) for name in names}, folder / ADAPTERS)
    ends = ("embed_tokens.weight", "lm_head.weight")
    layers = {n: p.detach() for n, p in model.named_parameters() if n.endswith(ends)}
    torch.save(layers, folder / LAYERS)
    settings = {
        "model_type": kind,
        "decoder_model_name": "/mnt/internal/Mistral-7B" if kind == "CLaRa" else "owner/base",
        "compr_model_name": None,
        "compr_rate": K,
        "doc_max_length": WINDOW,
        "sep": True,
        "different_mem_tokens": different,
        "training_form": "both_separately",
        "lora": True,
        "lora_r": RANK,
    }
    (folder / CONFIG).write_text(json.dumps(settings))
    return Written(folder, base, model, tokenizer, memory)


CASES = [("COCOM", True), ("CLaRa", True), ("COCOM", False)]


@pytest.fixture(scope="module", params=CASES, ids=["pisco", "clara", "one-token"])
def written(request, tmp_path_factory):
    kind, different = request.param
    found = write(tmp_path_factory.mktemp("pisco"), kind, different=different)
    convert(found.folder, found.folder.parent / "ours", decoder=found.base, accept_license=True)
    return found


@pytest.fixture(scope="module")
def engine(written):
    return Refrag.load(written.folder.parent / "ours", vectors="float32")


@torch.inference_mode()
def reference_vectors(written, text):
    """One document, window by window: its tokens, then the memory tokens, whose states count."""
    model, tokenizer = written.model, written.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    model.set_adapter("encoder_adapter")
    found = []
    for start in range(0, len(ids), WINDOW):
        window = ids[start : start + WINDOW]
        first = tokenizer.convert_tokens_to_ids(["<ENC>", tokenizer.bos_token])
        last = tokenizer.convert_tokens_to_ids([tokenizer.eos_token, *written.memory])
        whole = torch.tensor([[*first, *window, *last]])
        states = model(input_ids=whole, output_hidden_states=True).hidden_states[-1]
        found.append(states[0, -COUNT:])
    if len(ids) <= WINDOW:  # their own way: one string, cut on the right
        string = f"<ENC>{tokenizer.bos_token}{text}{tokenizer.eos_token}"
        theirs = tokenizer(string, add_special_tokens=False).input_ids[: WINDOW + 3]
        assert theirs == [*first, *ids, last[0]]
    return torch.cat(found)


@torch.inference_mode()
def reference_inputs(written, texts, question):
    """The prompt with memory tokens, whose embeddings are exchanged."""
    tokenizer, vectors = written.tokenizer, [reference_vectors(written, text) for text in texts]
    run = written.memory[0]
    documents = "".join(run * len(one) + "<SEP>" for one in vectors)
    prompt = tokenizer.apply_chat_template(
        chat(documents, question), tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False).input_ids)
    embeds = written.model.get_input_embeddings()(ids).clone()
    embeds[ids == tokenizer.convert_tokens_to_ids(run)] = torch.cat(vectors)
    return embeds


def chat(documents, question):
    asked = f"Background:\n{documents}\n\nQuestion:{question}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def some_texts(rng):
    """One to five passages, of lengths around multiples of the rate and of the window."""
    return [
        " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 2, 3, 4, 5, 7, 9, 14))))
        for _ in range(rng.randint(1, 5))
    ]


def test_decoder_inputs_are_the_references(written, engine):
    lengths = set()
    for seed in range(200):
        rng = Random(seed)
        texts = some_texts(rng)
        lengths |= {len(written.tokenizer(text, add_special_tokens=False)[0]) for text in texts}
        prompt = engine.compress(chat("".join(map(wrap, texts)), "Who?"))
        found = engine.model.decoder_inputs([prompt]).inputs_embeds[0]
        torch.testing.assert_close(
            found, reference_inputs(written, texts, "Who?"), atol=1e-5, rtol=1e-5
        )
    assert {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17} <= lengths


@torch.inference_mode()
def test_answers_are_the_references(written, engine):
    texts = some_texts(Random(3))
    messages = chat("".join(map(wrap, texts)), "Who?")
    written.model.set_adapter("decoder_adapter")
    inputs = reference_inputs(written, texts, "Who?")[None]
    written.model.set_adapter("decoder_adapter")
    expected = written.model.generate(
        inputs_embeds=inputs,
        attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    alone = engine.generate(messages, max_new_tokens=6)
    assert list(alone.token_ids) == expected[: len(alone.token_ids)]
    batch = engine.generate_batch([messages, chat(wrap("Belu."), "What?")], max_new_tokens=6)
    assert batch[0].token_ids == alone.token_ids
    assert "".join(one.text for one in engine.stream(messages, max_new_tokens=6)) == alone.text


def test_the_store_keeps_them(written, tmp_path):
    ours = written.folder.parent / "ours"
    texts = ["a", WORDS[0], " ".join(WORDS * 2), ""]
    first = Refrag.load(ours, store=tmp_path / "vectors", vectors="float32")
    assert first.precompute(texts).encoded == 3
    again = Refrag.load(ours, store=tmp_path / "vectors", vectors="float32", on_miss="text")
    for text in texts[:3]:
        (run,) = again.compress(wrap(text)).embeddings()
        torch.testing.assert_close(
            torch.from_numpy(run), reference_vectors(written, text), atol=1e-5, rtol=1e-5
        )
    assert again.compress(wrap(texts[2]), policy="random", p=0.5).expanded > 0
    assert again.compress(wrap("a"), policy="random", p=1.0).expanded == COUNT  # most are empty


def test_without_its_adapter_the_base_is_back(written):
    bare = RefragModel.from_pretrained(written.folder.parent / "ours", adapter=False)
    base = MistralForCausalLM.from_pretrained(written.base)
    found = bare.decoder.state_dict()
    for name, tensor in base.state_dict().items():
        if "embed_tokens" not in name and "lm_head" not in name:
            assert torch.equal(found[name], tensor)


def test_the_command_shows_licences_first(written, tmp_path, capsys):
    given = ["convert", str(written.folder), "--to", str(tmp_path / "new")]
    assert main([*given, "--decoder", str(written.base)]) == 1
    said = capsys.readouterr()
    assert "research only" in said.out or "CC-BY-NC" in said.out
    assert "--accept-license" in said.err
    assert not (tmp_path / "new").exists()
    assert main([*given, "--decoder", str(written.base), "--accept-license"]) == 0
    assert "pickles, of which tensors are taken" in capsys.readouterr().out
    assert RefragModel.from_pretrained(tmp_path / "new").config.pooling == "memory"


def test_a_tokenizer_without_the_memory_tokens(written, tmp_path):
    shutil.copytree(written.folder.parent / "ours", tmp_path / "ours")
    for path in (tmp_path / "ours" / "decoder").glob("*token*"):
        shutil.copy(path, tmp_path / "ours" / "encoder")
    with pytest.raises(CheckpointError, match="expected 4 or more behind it"):
        RefragModel.from_pretrained(tmp_path / "ours")


def test_loading_never_reads_a_pickle(written):
    with pytest.raises(CheckpointError, match="refrag convert"):
        RefragModel.from_pretrained(written.folder)
    names = [path.suffix for path in (written.folder.parent / "ours").rglob("*") if path.is_file()]
    assert not {".pth", ".bin", ".pt", ".pkl"} & set(names)


@pytest.fixture
def broken(tmp_path):
    return write(tmp_path, "COCOM")


def attempt(broken, **options):
    out = broken.folder.parent / "out"
    options = {"decoder": broken.base, "accept_license": True, **options}
    try:
        convert(broken.folder, out, say=lambda line: None, **options)
    finally:
        assert not out.exists()


class Stranger:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    "content",
    [{"encoder_adapter": Stranger()}, {"encoder_adapter": {"a": 1}}, [torch.ones(1)], {"a": "b"}],
)
@pytest.mark.parametrize("name", [ADAPTERS, LAYERS])
def test_pickles_of_anything_but_tensors(broken, name, content, capsys):
    torch.save(content, broken.folder / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read .*nothing else"):
        attempt(broken)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", [CONFIG, ADAPTERS, LAYERS])
def test_files_that_are_missing_or_damaged(broken, name):
    path = broken.folder / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=name):
        attempt(broken)
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        attempt(broken)


def test_a_base_that_cannot_be_had(broken):
    with pytest.raises(CheckpointError, match="Pass --decoder"):
        attempt(broken, decoder=broken.base.parent / "nowhere")
    path = broken.folder / CONFIG
    given = json.loads(path.read_text()) | {"decoder_model_name": str(broken.base)}
    path.write_text(json.dumps(given))
    with pytest.raises(CheckpointError, match=r"no hub id.*Pass --decoder"):
        attempt(broken, decoder=None)


def test_a_base_of_another_width(broken):
    tokenizer = train_tokenizer(World(), vocab_size=600, passages=200, seed=0)
    shape = {"vocab_size": len(tokenizer), "intermediate_size": 64, "num_hidden_layers": 2}
    config = MistralConfig(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, **shape)
    MistralForCausalLM(config).save_pretrained(broken.base)
    with pytest.raises(CheckpointError, match="expected the base that it was trained on"):
        attempt(broken)


def test_a_base_without_a_tokenizer(broken):
    for path in broken.base.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="No tokenizer"):
        attempt(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "OSCAR"}, "OSCAR"),
        ({"compr_model_name": "bert"}, "compr_model_name"),
        ({"sep": False}, "sep"),
        ({"compr_rate": 0}, "compr_rate"),
        ({"lora_r": 8}, "rank 8"),
        ({"doc_max_length": 32}, "expected the base"),
    ],
)
def test_settings_that_cannot_be(broken, change, message):
    path = broken.folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        attempt(broken)


def test_adapters_that_are_lacking_or_odd(broken):
    path = broken.folder / ADAPTERS
    whole = torch.load(path, weights_only=True)
    torch.save({"decoder_adapter": whole["decoder_adapter"]}, path)
    with pytest.raises(CheckpointError, match="encoder_adapter"):
        attempt(broken)
    extra = {"model.layers.0.stranger.lora_A.weight": torch.ones(RANK, 2)}
    torch.save(whole | {"encoder_adapter": whole["encoder_adapter"] | extra}, path)
    with pytest.raises(CheckpointError, match="stranger"):
        attempt(broken)


def test_a_retriever_is_xrags_alone(broken):
    with pytest.raises(InputError, match=r"no config\.json of xRAG"):
        attempt(broken, encoder="any/retriever")


def test_licences_that_are_not_accepted(broken):
    with pytest.raises(InputError, match="Nothing was written"):
        attempt(broken, accept_license=False)
