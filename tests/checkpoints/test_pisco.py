"""PISCO's layout: our decoder inputs are those of a plain, slow reading of its description."""

import copy
import json
import shutil
from random import Random

import pytest
import torch
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, Refrag
from refrag_rag.checkpoints.pisco import convert
from refrag_rag.cli import main
from refrag_rag.langchain import ChatRefrag
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor
from refrag_rag.spans import wrap
from refrag_rag.text.tokenization import PlainTokenizer

RATE, LENGTH, RANK = 4, 16, 2
COUNT = LENGTH // RATE
NAMES = [*(f"<MEM{i}>" for i in range(COUNT)), "<AE>", "<ENC>", "<SEP>"]
WORDS = "Anna Keld founded Velmora Works in 1912 - 2,310 metres, naïve 時計 clocks".split()
MATRICES = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up")]


def adapter(model):
    made = {}
    for layer in range(2):
        for name in MATRICES:
            rows, columns = model.get_submodule(f"model.layers.{layer}.{name}").weight.shape
            key = f"model.layers.{layer}.{name}.lora"
            made[f"{key}_A.weight"] = torch.randn(RANK, columns) * 0.2
            made[f"{key}_B.weight"] = torch.randn(rows, RANK) * 0.2
    return made


def adapted(base, outer, factors):
    """The base with an adapter beside its matrices, unlike the merged one of the package."""
    model = copy.deepcopy(base)
    model.resize_token_embeddings(len(outer["lm_head.weight"]))
    model.model.embed_tokens.weight.data = outer["model.embed_tokens.weight"]
    for layer in range(2):
        for name in MATRICES:
            key = f"model.layers.{layer}.{name}"
            a, b = factors[f"{key}.lora_A.weight"], factors[f"{key}.lora_B.weight"]

            def add(module, given, output, a=a, b=b):
                return output + 2.0 * (given[0] @ a.T) @ b.T

            model.get_submodule(key).register_forward_hook(add)
    return model.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    folder, base = (tmp_path_factory.mktemp(name) for name in ("pisco", "base"))
    tokenizer = train_tokenizer(World(), vocab_size=500, passages=100, seed=0)
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
            max_position_embeddings=2048,
        )
    )  # fmt: skip
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    outer = {n: torch.randn(len(tokenizer) + len(NAMES), 32)
             for n in ("model.embed_tokens.weight", "lm_head.weight")}  # fmt: skip
    both = {name: adapter(model) for name in ("encoder_adapter", "decoder_adapter")}
    torch.save(both, folder / "adapters.pth")
    torch.save(outer, folder / "decoder_first_last_layers.pth")
    given = {"model_type": "COCOM", "compr_rate": RATE, "doc_max_length": LENGTH}
    (folder / "config.json").write_text(json.dumps(given))
    encoder = adapted(model, outer, both["encoder_adapter"])
    ids = {name: len(tokenizer) + i for i, name in enumerate(NAMES)}
    return folder, base, tokenizer, encoder, outer["model.embed_tokens.weight"], ids


@pytest.fixture(scope="module")
def out(written, tmp_path_factory):
    place = tmp_path_factory.mktemp("out") / "model"
    arguments = ["convert", str(written[0]), "--base", str(written[1]), "--to", str(place)]
    assert main([*arguments, "--accept-license"]) == 0
    return place


@pytest.fixture(scope="module")
def engine(out):
    return Refrag.load(out, vectors="float32")


@torch.inference_mode()
def reference(written, pieces):
    """Text and passages by turns, nothing batched."""
    _, _, tokenizer, encoder, table, ids = written
    plain, rows = PlainTokenizer(tokenizer), []
    for piece, is_passage in pieces:
        tokens = plain.encode(piece)[0]
        if not is_passage:
            rows.append(table[tokens])
            continue
        for start in range(0, len(tokens), LENGTH):
            window = [ids["<ENC>"], tokenizer.bos_token_id, *tokens[start : start + LENGTH]]
            window += [tokenizer.eos_token_id, *(ids[name] for name in NAMES[:COUNT])]
            rows.append(encoder.model(torch.tensor([window])).last_hidden_state[0, -COUNT:])
        rows.append(table[[ids["<SEP>"]]])
    return torch.cat(rows)


def test_decoder_inputs_are_those_of_the_description(written, engine):
    for seed in range(200):
        random = Random(seed)
        pieces = [("Background:\n", False)]
        for _ in range(random.randint(1, 5)):
            pieces += [(" ".join(random.choices(WORDS, k=random.randint(1, 14))), True)]
        pieces += [("\n\nQuestion:Who?", False)]
        prompt = "".join(wrap(text) if passage else text for text, passage in pieces)
        compressed = engine.compress(prompt)
        found = engine.model.decoder_inputs([compressed]).inputs_embeds[0]
        special = engine.model.tokenizer("", add_special_tokens=True).input_ids
        wanted = reference(written, pieces)
        torch.testing.assert_close(found[len(special) :], wanted, atol=1e-5, rtol=1e-5)


def test_store_batch_and_stream_answer_alike(out, tmp_path):
    engine = Refrag.load(out, store=tmp_path / "store")
    prompts = [f"Background:\n{wrap(text)}\nQuestion:Who?" for text in ("Anna Keld", "a " * 40)]
    engine.precompute(["Anna Keld", "a " * 40])
    alone = [engine.generate(p, max_new_tokens=4).text for p in prompts]
    assert [a.text for a in engine.generate_batch(prompts, max_new_tokens=4)] == alone
    assert "".join(d.text for d in engine.stream(prompts[0], max_new_tokens=4)) == alone[0]
    nodes = [NodeWithScore(node=TextNode(text="Anna Keld"), score=1.0)]
    nodes = RefragPostprocessor(engine=engine).postprocess_nodes(nodes, QueryBundle("Who?"))
    text = f"Background:\n{nodes[0].get_content(MetadataMode.LLM)}\nQuestion:Who?"
    chat = engine.generate([{"role": "user", "content": text}], max_new_tokens=4).text
    assert RefragLLM(engine=engine, max_new_tokens=4).complete(text).text == chat
    assert ChatRefrag(engine=engine, max_new_tokens=4).invoke(text).content == chat
    counts = engine.compress(text)
    assert sum(len(run) for run in counts.embeddings()) == COUNT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapters.pth", {"encoder_adapter": Random(0)}, "as tensors alone"),
        ("adapters.pth", {"encoder_adapter": {}}, "no decoder_adapter"),
        ("adapters.pth", {"encoder_adapter": {"x": torch.zeros(1)}}, "factors of LoRA"),
        ("decoder_first_last_layers.pth", {"lm_head.weight": torch.zeros(3, 5)}, "another base"),
    ],
)
def test_pickles_that_do_not_fit_are_one_clear_error(written, tmp_path, name, content, message):
    folder = tmp_path / "bad"
    shutil.copytree(written[0], folder)
    torch.save(content, folder / name)
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "out", base=written[1], accept_license=True)
    assert not (tmp_path / "out").exists()


def test_licence_base_and_tokenizer_are_asked_for(written, tmp_path, capsys):
    folder, base = written[:2]
    with pytest.raises(InputError, match="--accept-license"):
        convert(folder, tmp_path / "out", base=base)
    assert main(["convert", str(folder), "--base", str(base), "--to", str(tmp_path / "o")]) == 1
    assert "CC-BY-NC" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="No tokenizer"):
        convert(folder, tmp_path / "out", base=tmp_path, accept_license=True)
    with pytest.raises(CheckpointError, match="refrag convert"):
        Refrag.load(folder)
