"""Random models of named shapes: speed does not depend on the values of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from refrag_rag.checkpoints.parts import read_tokenizer
from refrag_rag.config import RefragConfig
from refrag_rag.encoder import ChunkEncoder
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.projector import Projector

WINDOW = 256  # tokens that the encoder reads at once
TOKENIZER = Path(__file__).parents[3] / "tests" / "models" / "tiny" / "decoder"
ROOM = 128 * 1024  # decoder positions; rotary positions have no table that would take memory


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, and of the encoder that goes with it.

    Attributes
    ----------
    layers, width, heads, kv_heads, inner, vocabulary
        Of the decoder, of the Llama family.
    encoder
        Name of the encoder's shape.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    encoder: str


# The paper pairs LLaMA-2-7B with RoBERTa-large.
DECODERS: Mapping[str, Shape] = {
    "smollm-135m": Shape(30, 576, 9, 3, 1536, 49152, "minilm-22m"),
    "llama-1b": Shape(16, 2048, 32, 8, 8192, 128256, "roberta-base"),
    "llama-7b": Shape(32, 4096, 32, 32, 11008, 32000, "roberta-large"),
    "test": Shape(2, 64, 4, 2, 128, 9000, "test"),
}
# kind, layers, width, heads
ENCODERS: Mapping[str, tuple[str, int, int, int]] = {
    "minilm-22m": ("bert", 6, 384, 12),
    "bert-base": ("bert", 12, 768, 12),
    "roberta-base": ("roberta", 12, 768, 12),
    "roberta-large": ("roberta", 24, 1024, 16),
    "test": ("bert", 2, 48, 2),
}


def random_model(
    name: str,
    k: int,
    *,
    encoder: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    decoder: PreTrainedModel | None = None,
) -> RefragModel:
    """Build a model of a named shape with random weights and the tokenizer of the tests' model.

    Answers have no end token: they take all the tokens that are asked for.

    Parameters
    ----------
    name
        One of `DECODERS`.
    k
        Tokens of a chunk.
    encoder
        One of `ENCODERS`. Default: the decoder's own.
    dtype
        Default: float32 on CPUs, bfloat16 elsewhere.
    decoder
        Another model's decoder of this shape, to share.

    Raises
    ------
    InputError
        If there is no such shape.
    """
    if name not in DECODERS:
        raise InputError(f"Shape {name!r}; expected one of {', '.join(DECODERS)}.")
    shape = DECODERS[name]
    encoder = encoder or shape.encoder
    if encoder not in ENCODERS:
        raise InputError(f"Encoder shape {encoder!r}; expected one of {', '.join(ENCODERS)}.")
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    tokenizer = read_tokenizer(TOKENIZER)
    tokenizer.eos_token = None
    width = ENCODERS[encoder][2]
    config = RefragConfig(
        name=name,
        k=k,
        window=WINDOW,
        shared_vocabulary=True,
        encoder_width=width,
        decoder_width=shape.width,
    )
    with torch.device(device), _default(dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = decoder or _decoder(shape)
        projector = Projector(width, shape.width)
        reader = _encoder(encoder, shape.vocabulary)
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(reader, tokenizer, config),
        projector=projector,
        decoder=decoder,
        tokenizer=tokenizer,
    ).eval()


def _decoder(shape: Shape) -> PreTrainedModel:
    decoder: PreTrainedModel = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=ROOM,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    return decoder


def _encoder(name: str, vocabulary: int) -> PreTrainedModel:
    kind, layers, width, heads = ENCODERS[name]
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 514 if kind == "roberta" else 512,
    }
    model: PreTrainedModel
    if kind == "roberta":
        model = RobertaModel(RobertaConfig(**sizes), add_pooling_layer=False)
    else:
        model = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    return model


class _default:
    """Build weights in a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self._before = dtype, torch.get_default_dtype()

    def __enter__(self) -> None:
        torch.set_default_dtype(self._dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self._before)
