"""The tested architectures: a tiny random model of each, built from its config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

VOCABULARY = 600
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "max_position_embeddings": 512}


@dataclass(frozen=True)
class Architecture:
    """One architecture of the matrix.

    Attributes
    ----------
    name
        As in the table of the docs.
    build
        Makes the random model; the seed is set before.
    care
        What is special about it, for the table.
    """

    name: str
    build: Callable[[], Any]
    care: str = ""

    def model(self) -> Any:
        """The same tiny random model every time."""
        torch.manual_seed(0)
        return self.build().eval()


def _causal(kind: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        return getattr(hf, f"{kind}ForCausalLM")(
            getattr(hf, f"{kind}Config")(**{**GROUPED, **options})
        )

    return build


def _gemma3() -> Any:
    config = hf.Gemma3TextConfig(
        **{**GROUPED, "head_dim": 12, "sliding_window": 16, "num_hidden_layers": 6}
    )
    return hf.Gemma3ForCausalLM(config)


def _gpt2() -> Any:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=512,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    return hf.GPT2LMHeadModel(config)


def _mixtral() -> Any:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    )


def _qwen3_moe() -> Any:
    config = hf.Qwen3MoeConfig(
        **GROUPED, head_dim=12, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    )
    return hf.Qwen3MoeForCausalLM(config)


DECODERS = (
    Architecture("Llama", _causal("Llama")),
    Architecture("Qwen3", _causal("Qwen3", head_dim=12)),
    Architecture("Mistral", _causal("Mistral", sliding_window=16), "sliding window"),
    Architecture("Gemma 3", _gemma3, "scaled embeddings, sliding windows"),
    Architecture("Phi-3, Phi-4", _causal("Phi3"), "joined projections"),
    Architecture("GPT-2", _gpt2, "learned positions, no pad token"),
    Architecture("OLMo 2", _causal("Olmo2")),
    Architecture("Mixtral", _mixtral, "mixture of experts"),
    Architecture("Qwen3-MoE", _qwen3_moe, "mixture of experts"),
)


def _bert() -> Any:
    config = hf.BertConfig(**SHAPE, max_position_embeddings=64)
    return hf.BertModel(config, add_pooling_layer=False)


def _roberta() -> Any:
    config = hf.RobertaConfig(**{**SHAPE, "pad_token_id": 1}, max_position_embeddings=66)
    return hf.RobertaModel(config, add_pooling_layer=False)


def _modernbert() -> Any:
    config = hf.ModernBertConfig(
        **{**SHAPE, "cls_token_id": 1, "sep_token_id": 2},
        max_position_embeddings=64,
        local_attention=16,
        initializer_cutoff_factor=2.0,
    )
    return hf.ModernBertModel(config)


def _qwen3_embedding() -> Any:
    return hf.Qwen3Model(hf.Qwen3Config(**GROUPED, head_dim=12))


def _t5() -> Any:
    config = hf.T5Config(
        vocab_size=VOCABULARY, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4
    )
    return hf.T5EncoderModel(config)


ENCODERS = (
    Architecture("BERT", _bert),
    Architecture("RoBERTa", _roberta, "positions counted from the pad token's id"),
    Architecture("ModernBERT", _modernbert, "local attention"),
    Architecture("Qwen3-Embedding", _qwen3_embedding, "causal"),
    Architecture("T5 encoder", _t5, "relative positions; the decoder half is not loaded"),
)
