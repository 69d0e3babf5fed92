"""ARC-Encoder's layout: converted, our decoder inputs are those of a plain reading of it."""

import json
from random import Random

import pytest
import torch
from llama_index.core.schema import NodeWithScore, TextNode
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, MistralForCausalLM

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, Refrag
from refrag_rag.checkpoints import convert
from refrag_rag.spans import wrap
from tests.checkpoints.test_pisco import some_texts

WIDTH, HEADS, KV, SIZE, INNER, LAYERS, RATE = 32, 4, 2, 8, 48, 3, 8
DECODER = {
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "sliding_window": None,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def settings(vocabulary):
    return {
        "embedder_args": {
            "causal_embedder": False,
            "compress_rates": [-RATE],
            "n_truncated_layers": 2,
            "pooling_module": {"pool_type": "mean_pooled_queries", "where": "before"},
            "rec_tok": True,
            "cont_tok": True,
        },
        "bridge_args": {"bridge_type": "multi_module", "in_dim": WIDTH, "hidden_dim": 20},
        "model_args": {
            "dim": WIDTH, "n_layers": LAYERS + 2, "head_dim": SIZE, "hidden_dim": INNER,
            "n_heads": HEADS, "n_kv_heads": KV, "norm_eps": 1e-5, "vocab_size": vocabulary,
            "rope_theta": 500000.0,
        },
    }  # fmt: skip


class Written:
    """A checkpoint, a decoder and a tokenizer on disk, and the same read slowly."""

    def __init__(self, root, *, bridges=("",), shared=True):
        torch.manual_seed(0)
        self.folder, self.decoder, self.words = root / "arc", root / "decoder", root / "words"
        world = World()
        self.own = train_tokenizer(world, vocab_size=600, passages=200, seed=0)
        self.tokenizer = self.own
        if not shared:
            self.tokenizer = train_tokenizer(world, vocab_size=400, passages=100, seed=4)
        self.tokenizer.chat_template = None  # a base decoder
        sizes = {"vocab_size": len(self.tokenizer), "hidden_size": 40}
        self.model = MistralForCausalLM(MistralConfig(**DECODER, **sizes)).eval()
        self.model.save_pretrained(self.decoder)
        self.tokenizer.save_pretrained(self.decoder)
        self.own.save_pretrained(self.words)
        self.tensors = self._drawn(bridges)
        self.folder.mkdir()
        save_file(self.tensors, self.folder / "model.safetensors")
        self.write(settings(len(self.own)))

    def write(self, config):
        (self.folder / "config.json").write_text(json.dumps(config))

    def _drawn(self, bridges):
        shapes = {"embedder.tok_embeddings.weight": (len(self.own), WIDTH)}
        for n in range(LAYERS):
            start = f"embedder.layers.{n}."
            for name, out in (("wq", HEADS * SIZE), ("wk", KV * SIZE), ("wv", KV * SIZE)):
                shapes[f"{start}attention.{name}.weight"] = (out, WIDTH)
            shapes[f"{start}attention.wo.weight"] = (WIDTH, HEADS * SIZE)
            shapes[f"{start}feed_forward.w1.weight"] = (INNER, WIDTH)
            shapes[f"{start}feed_forward.w2.weight"] = (WIDTH, INNER)
            shapes[f"{start}feed_forward.w3.weight"] = (INNER, WIDTH)
            shapes[f"{start}attention_norm.weight"] = shapes[f"{start}ffn_norm.weight"] = (WIDTH,)
        for bridge in bridges:
            shapes[f"bridge_module{bridge}.layer1.weight"] = (20, WIDTH)
            shapes[f"bridge_module{bridge}.layer2.weight"] = (40, 20)
            shapes[f"embedder.cont_tok{bridge or '.0'}.weight"] = (1, WIDTH)
            shapes[f"embedder.rec_tok{bridge or '.0'}.weight"] = (1, WIDTH)
        return {n: 0.15 * torch.randn(s) + ("norm" in n) for n, s in shapes.items()}

    def convert(self, **options):
        options = {"decoder": self.decoder, "encoder": self.words, **options}
        options = {"accept_license": True, "say": str, **options}
        convert(self.folder, self.folder.parent / "ours", **options)
        return self.folder.parent / "ours"

    @torch.inference_mode()
    def vectors(self, text, bridge=""):
        """The decoder's vectors for a passage, token by token and group by group."""
        t = self.tensors
        ids = self.own(text, add_special_tokens=False).input_ids
        h = t["embedder.tok_embeddings.weight"][ids]
        for n in range(LAYERS - 1):
            h = self.layer(n, h, h)
        groups = levelled(len(ids))
        means = torch.stack([h[a:b].mean(0) for a, b in groups])
        found = self.layer(LAYERS - 1, means, h)
        found = torch.cat([found, t[f"embedder.cont_tok{bridge or '.0'}.weight"]])
        first = t[f"bridge_module{bridge}.layer1.weight"]
        return found @ first.T @ t[f"bridge_module{bridge}.layer2.weight"].T

    def layer(self, n, asked, known):
        w = {k.split(".", 3)[3].removesuffix(".weight"): v for k, v in self.tensors.items()
             if k.startswith(f"embedder.layers.{n}.")}  # fmt: skip
        query = turned((norm(asked, w["attention_norm"]) @ w["attention.wq"].T), HEADS)
        key = turned(norm(known, w["attention_norm"]) @ w["attention.wk"].T, KV)
        value = (norm(known, w["attention_norm"]) @ w["attention.wv"].T).view(-1, KV, SIZE)
        out = torch.zeros(len(asked), HEADS, SIZE)
        for head in range(HEADS):
            shared = head // (HEADS // KV)
            weights = (query[:, head] @ key[:, shared].T / SIZE**0.5).softmax(-1)
            out[:, head] = weights @ value[:, shared]
        asked = asked + out.flatten(1) @ w["attention.wo"].T
        inside = norm(asked, w["ffn_norm"])
        gate = torch.nn.functional.silu(inside @ w["feed_forward.w1"].T)
        return asked + (gate * (inside @ w["feed_forward.w3"].T)) @ w["feed_forward.w2"].T

    @torch.inference_mode()
    def inputs(self, pieces, bridge=""):
        """Text, then passages between further text; the first piece begins with bos."""
        embed, parts = self.model.get_input_embeddings(), []
        for place, piece in enumerate(pieces):
            if place % 2:
                parts.append(self.vectors(piece, bridge))
            elif piece:
                ids = self.tokenizer(piece, add_special_tokens=place == 0).input_ids
                parts.append(embed(torch.tensor(ids)))
        return torch.cat(parts)


def levelled(count):
    """Where each group begins and ends, as the description says it."""
    if count < RATE:
        lengths = [count]
    elif count % RATE == 0:
        lengths = [RATE] * (count // RATE)
    else:
        groups = count // RATE + 1
        lengths = [count // groups + (n < count % groups) for n in range(groups)]
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    return list(zip([0, *ends], ends, strict=False))


def norm(states, weight):
    return states / (states.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def turned(projected, heads):
    """Neighbouring numbers turned together: complex numbers, times e^(i position frequency)."""
    pairs = torch.view_as_complex(projected.view(-1, heads, SIZE // 2, 2).contiguous())
    frequencies = 500000.0 ** (-torch.arange(0, SIZE, 2) / SIZE)
    angles = torch.arange(len(pairs))[:, None] * frequencies
    rotated = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(rotated).flatten(2)


def prompt_of(texts):
    """The authors' prompt around passages: what stands between them, and the prompt with spans."""
    pieces = ["Document: "]
    for text in texts:
        pieces += [text, "\n\nDocument: "]
    pieces[-1] = "\nQuestion: Who?\nAnswer:"
    spans = [wrap(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
    return pieces, "".join(spans)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    found = Written(tmp_path_factory.mktemp("arc"))
    found.ours = found.convert()
    return found


def cut_to(tokenizer, text, count):
    """A text of about so many tokens."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[:count])


def check(found, engine, seed, bridge=""):
    rng = Random(seed)
    texts = some_texts(rng)
    count = RATE * rng.randint(1, 4) + rng.choice((-1, 0, 1))  # around multiples of the rate
    texts[0] = cut_to(found.own, " ".join(texts) * 3, 3 if seed % 10 == 0 else count)
    pieces, prompt = prompt_of(texts)
    given = engine.model.decoder_inputs([engine.compress(prompt)]).inputs_embeds[0]
    torch.testing.assert_close(given, found.inputs(pieces, bridge), atol=1e-5, rtol=1e-5)


def test_decoder_inputs_are_the_references(written):
    engine = Refrag.load(written.ours, vectors="float32")
    for seed in range(200):
        check(written, engine, seed)


def test_the_decoder_is_as_it_was(written):
    theirs = load_file(written.decoder / "model.safetensors")
    ours = load_file(written.ours / "decoder" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_bridges_for_several_decoders_of_other_tokenizers(tmp_path):
    found = Written(tmp_path, bridges=(".0", ".1"), shared=False)
    for options in ({}, {"bridge": 2}):
        with pytest.raises(CheckpointError, match=r"bridges 0, 1"):
            found.convert(**options)
    engine = Refrag.load(found.convert(bridge=1), vectors="float32")
    for seed in range(20):
        check(found, engine, seed, ".1")


def test_long_passages_are_cut_into_windows(written):
    engine = Refrag.load(written.ours)
    text = "Velmora makes clocks by the river. " * 400
    count = len(written.own(text, add_special_tokens=False).input_ids)
    assert count > 2048
    prompt = engine.compress(prompt_of([text])[1])
    assert prompt.chunks == -(-count // RATE) + 1
    assert sum(layout.char_ends[-1] for layout in prompt.layouts) == len(text)


def test_answers_in_batches_streams_and_both_frameworks(written, tmp_path):
    from refrag_rag.langchain import RefragLLM as ChainLLM
    from refrag_rag.llama_index import RefragLLM, RefragPostprocessor

    engine = Refrag.load(written.ours, store=tmp_path / "store")
    texts = some_texts(Random(3))
    _, prompt = prompt_of(texts)
    alone = engine.generate(prompt, max_new_tokens=5)
    assert alone.counts.expanded == 0
    batch = engine.generate_batch([prompt, "Document: none"], max_new_tokens=5)
    assert batch[0].token_ids == alone.token_ids
    assert "".join(d.text for d in engine.stream(prompt, max_new_tokens=5)) == alone.text
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]
    marked = RefragPostprocessor(engine).postprocess_nodes(nodes, query_str="Who?")
    asked = "\n\n".join(node.get_content() for node in marked)
    llm = RefragLLM(engine=engine, max_new_tokens=5)
    direct = engine.generate(f"Document: {asked}\nAnswer:", max_new_tokens=5)
    assert llm.complete(f"Document: {asked}\nAnswer:").text == direct.text
    assert ChainLLM(engine=engine, max_new_tokens=5).invoke(prompt) == alone.text


def broken(name, change):
    return pytest.param(name, change, id=name)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        broken(
            "3 layers of the encoder", lambda c: c["embedder_args"].update(n_truncated_layers=1)
        ),
        broken("compress_rates", lambda c: c["embedder_args"].update(compress_rates=[-8, -2])),
        broken("pooling", lambda c: c["embedder_args"].update(causal_embedder=True)),
        broken("bridge_type", lambda c: c["bridge_args"].update(bridge_type="gated")),
        broken("head_dim", lambda c: c["model_args"].update(head_dim=6)),
        broken("model_args", lambda c: c.pop("model_args")),
        broken("no such place", lambda c: c["model_args"].update(hidden_dim=40)),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, message, change):
    found = Written(tmp_path)
    config = settings(len(found.own))
    change(config)
    found.write(config)
    with pytest.raises(CheckpointError, match=message):
        found.convert()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("embedder.tok_embeddings.weight", None),
        ("embedder.layers.1.attention.wq.weight", None),
        ("embedder.cont_tok.0.weight", None),
        ("embedder.norm.weight", torch.ones(WIDTH)),
        ("foo.layers.0.attention.wq.weight", torch.ones(WIDTH, WIDTH)),
        ("embedder.tok_embeddings.weight", torch.ones(1, WIDTH)),
    ],
)
def test_tensors_that_are_missing_too_many_or_of_another_shape(tmp_path, name, tensor):
    found = Written(tmp_path)
    tensors = {n: t for n, t in found.tensors.items() if n != name}
    save_file(
        tensors | ({} if tensor is None else {name: tensor}), found.folder / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="Download"):
        found.convert()
    assert not (tmp_path / "ours").exists()


def test_the_bridge_is_kept_as_it_is_stored(tmp_path):
    found = Written(tmp_path)
    found.model.bfloat16().save_pretrained(found.decoder)
    kept = load_file(found.convert() / "projector.safetensors")
    assert torch.equal(kept["hidden.weight"], found.tensors["bridge_module.layer1.weight"])


def test_the_learned_vector_stays_while_a_vector_of_its_passage_does(written):
    engine = Refrag.load(written.ours)
    text = "Velmora makes clocks by the river in Port Belu. " * 6 + "Tarsk."
    for policy, p in (("random", 0.5), ("lexical", 0.2), ("all", 1.0)):
        (layout,) = engine.compress(f"{wrap(text)} Tarsk?", policy=policy, p=p).layouts
        assert layout.expanded[-1] == layout.expanded[:-1].all()


def test_an_unconverted_folder_says_how(written):
    with pytest.raises(CheckpointError, match="refrag convert"):
        Refrag.load(written.folder)


def test_what_is_missing_is_named(tmp_path):
    found = Written(tmp_path)
    with pytest.raises(InputError, match="--decoder"):
        found.convert(decoder=None)
    with pytest.raises(InputError, match="--accept-license"):
        found.convert(accept_license=False)
    with pytest.raises(CheckpointError, match="nowhere"):
        found.convert(decoder="./nowhere")
    with pytest.raises(CheckpointError, match="tokenizer"):
        found.convert(encoder=found.folder)
    wide = MistralForCausalLM(MistralConfig(**DECODER, vocab_size=600, hidden_size=48))
    wide.save_pretrained(found.decoder)
    with pytest.raises(CheckpointError, match="40 numbers, the decoder reads 48"):
        found.convert()
    assert not (tmp_path / "ours").exists()
