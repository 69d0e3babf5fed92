"""Small real models, built from configs on the spot."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import Refrag, RefragConfig, RefragModel
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.model.projector import Projector
from tests.modes import pytest_addoption, pytest_configure  # noqa: F401  (hooks)

pytest_plugins = ["pytester"]
TINY = str(Path(__file__).parent / "models" / "tiny")  # a model that has learnt to read


@pytest.fixture(scope="session")
def tokenizer():
    """A small byte-level BPE with a chat template."""
    return train_tokenizer(World(), vocab_size=600, passages=200, seed=0)


def build_model(
    tokenizer, *, k=8, window=32, pooling="mean", chunking="fixed", positions=2048, hidden=None
):
    """A tiny random model; weights depend on nothing but the settings."""
    torch.manual_seed(0)
    config = RefragConfig(
        name="random",
        k=k,
        window=window,
        pooling=pooling,
        chunking=chunking,
        shared_vocabulary=True,
        encoder_width=32,
        decoder_width=48,
        projector_width=hidden,
    )
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        ),
        add_pooling_layer=False,
    )
    decoder = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder, tokenizer, config),
        projector=Projector(config.chunk_width, config.decoder_width, config.projector_width),
        decoder=decoder,
        tokenizer=tokenizer,
    ).eval()


@pytest.fixture(scope="session")
def model(tokenizer) -> RefragModel:
    """A tiny random chat model with contextual windows."""
    return build_model(tokenizer)


@pytest.fixture
def engine(model) -> Refrag:
    """An engine over the tiny random model with a new store in memory."""
    return Refrag(model)


@pytest.fixture(scope="session")
def tiny_model() -> RefragModel:
    """A trained model, for tests in which answers matter."""
    return RefragModel.from_pretrained(TINY)
