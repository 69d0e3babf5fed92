"""xRAG's layout: converted, our decoder inputs are those of a plain reading of it."""

import json
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, MistralModel

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, Refrag
from refrag_rag.checkpoints import convert
from refrag_rag.spans import wrap
from tests.checkpoints.test_pisco import some_texts

TOKEN = "<xRAG>"
SHAPE = {
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


class Written:
    """A checkpoint and its retriever on disk, and what they were made of."""

    def __init__(self, root):
        torch.manual_seed(0)
        self.folder, self.encoder = root / "xrag", root / "retriever"
        world = World()
        self.tokenizer = train_tokenizer(world, vocab_size=600, passages=200, seed=0)
        self.own = train_tokenizer(world, vocab_size=400, passages=100, seed=4)
        self.tokenizer.add_tokens([TOKEN], special_tokens=True)
        sizes = {"vocab_size": len(self.tokenizer), "hidden_size": 48}
        self.model = MistralForCausalLM(MistralConfig(**SHAPE, **sizes)).eval()
        sizes = {"vocab_size": len(self.own), "hidden_size": 32}
        self.retriever = MistralModel(MistralConfig(**SHAPE, **sizes)).eval()
        self.projector = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 48))
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
        self.retriever.save_pretrained(self.encoder)
        self.own.save_pretrained(self.encoder)
        self.change(projector_type="mlp2x_gelu", retriever_hidden_size=32)
        tensors = {f"projector.projector.{n}": t for n, t in self.projector.state_dict().items()}
        path = self.folder / "model.safetensors"
        save_file(load_file(path) | tensors, path, metadata={"format": "pt"})

    def change(self, **settings):
        path = self.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    def convert(self, **options):
        options = {"encoder": self.encoder, "accept_license": True, "say": str, **options}
        convert(self.folder, self.folder.parent / "ours", **options)

    @torch.inference_mode()
    def vector(self, text):
        ids = self.own(text, truncation=True, max_length=180, return_tensors="pt").input_ids
        return self.retriever(ids).last_hidden_state[0, -1]

    @torch.inference_mode()
    def inputs(self, messages, texts):
        """The rendered prompt, with the token exchanged for projected vectors."""
        prompt = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor(self.tokenizer(prompt, add_special_tokens=False).input_ids)
        embeds = self.model.get_input_embeddings()(ids).clone()
        vectors = torch.stack([self.vector(text) for text in texts])
        embeds[ids == self.tokenizer.convert_tokens_to_ids(TOKEN)] = self.projector(vectors)
        return embeds


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    found = Written(tmp_path_factory.mktemp("xrag"))
    found.convert()
    return found


def chat(passages):
    return [{"role": "user", "content": f"Refer to {' '.join(passages)}. Question: Who?"}]


def test_decoder_inputs_are_the_references(written):
    engine = Refrag.load(written.folder.parent / "ours", vectors="float32")
    for seed in range(200):
        texts = some_texts(Random(seed))
        if seed % 20 == 0:
            texts[0] = "Velmora clocks " * 200  # longer than the retriever reads
        prompt = engine.compress(chat(map(wrap, texts)))
        found = engine.model.decoder_inputs([prompt]).inputs_embeds[0]
        expected = written.inputs(chat([TOKEN] * len(texts)), texts)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vectors_from_the_retriever_are_kept(written):
    texts = some_texts(Random(1))
    engine = Refrag.load(written.folder.parent / "ours", on_miss="text", vectors="float32")
    engine.keep_embeddings(texts, torch.stack([written.vector(text) for text in texts]))
    prompt = engine.compress(chat(map(wrap, texts)))
    found = engine.model.decoder_inputs([prompt]).inputs_embeds[0]
    expected = written.inputs(chat([TOKEN] * len(texts)), texts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    alone = engine.generate(chat(map(wrap, texts)), max_new_tokens=4)
    batch = engine.generate_batch([chat(map(wrap, texts)), "Hello."], max_new_tokens=4)
    assert batch[0].token_ids == alone.token_ids


def test_what_does_not_fit(tmp_path):
    broken = Written(tmp_path)
    with pytest.raises(InputError, match="--accept-license"):
        broken.convert(accept_license=False)
    with pytest.raises(InputError, match="--encoder"):
        broken.convert(encoder=None)
    with pytest.raises(CheckpointError, match="nowhere"):
        broken.convert(encoder="./nowhere")
    broken.change(retriever_hidden_size=64)
    with pytest.raises(CheckpointError, match="32 wide, the checkpoint reads 64"):
        broken.convert()
    broken.change(projector_type="mlp3x_gelu")
    with pytest.raises(CheckpointError, match="mlp3x_gelu"):
        broken.convert()
    broken.change(projector_type="mlp2x_gelu", retriever_hidden_size=32)
    path = broken.folder / "model.safetensors"
    kept = {name: one for name, one in load_file(path).items() if not name.endswith("2.bias")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"output\.bias"):
        broken.convert()
    assert not (tmp_path / "ours").exists()
