"""The shape of `tiny`: a small decoder, and a small encoder that starts from it."""

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from refrag_rag.config import RefragConfig
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.model.projector import Projector

K = 8
ROPE_THETA = 500_000.0  # a head of 32 dimensions then keeps more of them for far matches
ALIKE, DIFFERENT = 0.05, 0.02  # standard deviations of attention's weights: common and own part


def decoder_config(vocab_size: int, *, width: int = 256, layers: int = 4) -> LlamaConfig:
    """The decoder's shape."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def build_decoder(config: LlamaConfig) -> LlamaForCausalLM:
    """A new decoder whose heads attend to alike tokens and copy what they attend to.

    Queries and keys start almost equal, and each head's output is almost the transpose of its
    values (mimetic initialisation, Trockman and Kolter 2023, arXiv 2305.09828). Reading is finding
    the same name again and saying what stands there, and this is half of it.
    """
    decoder = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in decoder.model.layers:
            attention = layer.self_attn
            for first in (attention.q_proj.weight, attention.v_proj.weight):
                first.normal_(std=ALIKE)
            for second, first in (
                (attention.k_proj.weight, attention.q_proj.weight),
                (attention.o_proj.weight, attention.v_proj.weight.T),
            ):
                second.copy_(first + DIFFERENT * torch.randn_like(second))
    return decoder


def build(
    decoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    width: int = 128,
    layers: int = 2,
    window: int = 128,
    k: int = K,
) -> RefragModel:
    """A new encoder and projector before a trained decoder, whose embeddings they start from."""
    config = RefragConfig(
        name="refrag-tiny",
        k=k,
        window=window,
        pooling="concat",
        shared_vocabulary=True,
        encoder_width=width,
        decoder_width=decoder.config.hidden_size,
        projector_width=k * width,
    )
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=window,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = ChunkEncoder(BertModel(shape, add_pooling_layer=False), tokenizer, config)
    projector = Projector(config.chunk_width, config.decoder_width, config.projector_width)
    embeddings = decoder.get_input_embeddings().weight
    _start_embeddings(encoder, embeddings)
    _start_projector(projector, scale=4 * embeddings.std().item())
    return RefragModel(
        config=config,
        encoder=encoder,
        projector=projector,
        decoder=decoder,
        tokenizer=tokenizer,
    )


def _start_embeddings(encoder: ChunkEncoder, embeddings: Tensor) -> None:
    """Tokens that are alike to the decoder are alike to the encoder: a random projection."""
    target = encoder.model.get_input_embeddings().weight  # (vocabulary, encoder_width)
    projected = embeddings @ torch.randn(embeddings.shape[1], target.shape[1])
    with torch.no_grad():
        target.copy_(0.3 * projected / projected.std())


def _start_projector(projector: Projector, scale: float) -> None:
    """Keep the states of a chunk apart, and enter at about the scale of token embeddings.

    Far above it, the decoder's layers add too little to change the vectors, and their gradients
    vanish in the first normalisation.
    """
    nn.init.orthogonal_(projector.hidden.weight)
    nn.init.normal_(projector.output.weight, std=scale / projector.output.in_features**0.5)
    nn.init.zeros_(projector.output.bias)
