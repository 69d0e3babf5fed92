"""Random models of named shapes: speed does not depend on the values of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
)

from benchmarks.harness import System, synchronise
from refrag_rag.checkpoints.parts import read_tokenizer
from refrag_rag.config import RefragConfig
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.model.projector import Projector

WINDOW = 256  # tokens that the encoder reads at once
TOKENIZER = Path(__file__).parents[1] / "tests" / "models" / "tiny" / "decoder"
ROOM = 128 * 1024  # decoder positions; rotary positions have no table that would take memory


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder of the Llama family, and the name of its encoder's shape."""

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
# Kind, layers, width, heads.
ENCODERS: Mapping[str, tuple[str, int, int, int]] = {
    "minilm-22m": ("bert", 6, 384, 12),
    "roberta-base": ("roberta", 12, 768, 12),
    "roberta-large": ("roberta", 24, 1024, 16),
    "test": ("bert", 2, 48, 2),
}


def load(
    name: str,
    k: int,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    decoder: PreTrainedModel | None = None,
) -> RefragModel:
    """A random model of a shape (with the tests' tokenizer), or a checkpoint (with its own k).

    Answers of random models have no end token: they take all the tokens that are asked for.

    Parameters
    ----------
    name
        One of `DECODERS`; or an embedded name, folder or hub id.
    k
        Tokens of a chunk.
    dtype
        Default: float32 on CPUs, bfloat16 elsewhere.
    decoder
        Another model's decoder of this shape, to share.
    """
    if name not in DECODERS:
        return RefragModel.from_pretrained(name, device=device, dtype=dtype)
    shape = DECODERS[name]
    tokenizer = read_tokenizer(TOKENIZER)
    tokenizer.eos_token = None
    width = ENCODERS[shape.encoder][2]
    config = RefragConfig(
        name=name,
        k=k,
        window=WINDOW,
        shared_vocabulary=True,
        encoder_width=width,
        decoder_width=shape.width,
    )
    usual = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    kind = usual if dtype is None else getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        decoder = decoder or build_decoder(shape, kind)
        projector = Projector(width, shape.width).to(kind)
        encoder = ChunkEncoder(_encoder(shape, kind), tokenizer, config)
    return RefragModel(
        config=config, encoder=encoder, projector=projector, decoder=decoder, tokenizer=tokenizer
    ).eval()


def about(model: RefragModel) -> dict[str, Any]:
    """How large a model is and how it computes, for a report."""
    return {
        "dtype": str(model.decoder.dtype).removeprefix("torch."),
        "attention": model.decoder.config._attn_implementation,
        "decoder_parameters": sum(p.numel() for p in model.decoder.parameters()),
        "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()),
    }


def bare(model: RefragModel, batch: int, positions: int) -> System:
    """A forward pass of the decoder over random input embeddings, and nothing else."""
    weight = model.decoder.get_input_embeddings().weight
    embeds = torch.randn(batch, positions, weight.shape[1]).to(weight.device, weight.dtype)

    @torch.inference_mode()
    def system() -> dict[str, float]:
        output = model.decoder(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        output.logits[:, -1].argmax(-1).tolist()  # a token, as ours gives one
        synchronise()
        return {}

    return system


def build_decoder(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    """A random decoder of a shape, on the current device."""
    config = LlamaConfig(
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
    decoder: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return decoder


def _encoder(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    kind, layers, width, heads = ENCODERS[shape.encoder]
    build, positions = (RobertaConfig, 514) if kind == "roberta" else (BertConfig, 512)
    config = build(
        vocab_size=shape.vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
    )
    model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, add_pooling_layer=False)
    return model
