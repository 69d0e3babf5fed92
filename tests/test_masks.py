"""Masks of the encoder: what a token of a window sees."""

import dataclasses

import pytest
import torch

from refrag_rag.encoder import ChunkEncoder
from tests.architectures import ENCODERS
from tests.conftest import build_model

BERT, QWEN = ENCODERS[0], ENCODERS[3]


def encoded(tokenizer, architecture, mask, texts):
    model = build_model(tokenizer)
    config = dataclasses.replace(model.config, mask=mask, encoder_width=48, window=64)
    encoder = ChunkEncoder(architecture.model(), tokenizer, config)
    return encoder.encode([model.chunker.chunk(text) for text in texts])


@pytest.mark.parametrize(
    ("architecture", "own"), [(BERT, "bidirectional"), (QWEN, "causal")], ids=["BERT", "Qwen3"]
)
def test_a_models_own_mask_can_be_named(tokenizer, architecture, own):
    texts = ["Anna Keld founded Velmora Works in 1912.", "Port Belu."]
    by_itself = encoded(tokenizer, architecture, "own", texts)
    named = encoded(tokenizer, architecture, own, texts)
    for first, second in zip(by_itself, named, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("architecture", [BERT, QWEN], ids=["BERT", "Qwen3"])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_later_text_counts_only_where_it_is_seen(tokenizer, architecture, mask):
    start = "Anna Keld founded Velmora Works in 1912 and it makes clocks"
    ends = [" in Port Belu.", " for ships."]
    first, second = encoded(tokenizer, architecture, mask, [start + end for end in ends])
    assert torch.allclose(first[0], second[0], atol=1e-6) == (mask == "causal")
