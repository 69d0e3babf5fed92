"""The chunk encoder against slow references written from the description."""

import dataclasses

import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag import CheckpointError, InputError, RefragConfig
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.text.chunking import Chunker
from refrag_rag.text.tokenization import PlainTokenizer
from tests.architectures import ENCODERS
from tests.conftest import build_model

TEXT = "Velmora Works was founded in 1912 by Anna Keld. It makes clocks and pumps in Port Belu. "
TEXTS = [TEXT, TEXT * 3, "Short.", ""]
BERT, QWEN = ENCODERS[0], ENCODERS[3]


def states(model, ids):
    with torch.inference_mode():
        return model.encoder.model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", "concat"])
@pytest.mark.parametrize("window", [8, 32])
def test_windows_are_pooled_per_chunk(tokenizer, pooling, window):
    model = build_model(tokenizer, pooling=pooling, window=window)
    passages = [model.chunker.chunk(text) for text in TEXTS]
    encoded = model.encode(passages)
    for passage, found in zip(passages, encoded, strict=True):
        assert found.shape == (len(passage), model.config.chunk_width)
        expected = []
        for start in range(0, len(passage.token_ids), window):
            part = states(model, passage.token_ids[start : start + window])
            for chunk in part.split(8):
                if pooling == "mean":
                    expected.append(chunk.mean(0))
                else:
                    padded = torch.zeros(8, chunk.shape[1])
                    padded[: len(chunk)] = chunk
                    expected.append(padded.flatten())
        if expected:
            torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_cls_is_the_first_state_of_an_isolated_chunk(tokenizer):
    model = build_model(tokenizer, pooling="cls", window=8)
    passage = model.chunker.chunk(TEXT)
    (found,) = model.encode([passage])
    for row, ids in zip(found, passage.chunk_ids(), strict=True):
        expected = states(model, [tokenizer.bos_token_id, *ids])[0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_isolated_chunks_do_not_see_their_neighbours_and_windows_do(tokenizer):
    texts = [TEXT + "One end.", TEXT + "Another end."]
    for window, alike in ((8, True), (64, False)):
        model = build_model(tokenizer, window=window)
        one, other = model.encode([model.chunker.chunk(text) for text in texts])
        assert torch.allclose(one[0], other[0], atol=1e-6) is alike


def test_a_batch_equals_one_by_one(tokenizer):
    model = build_model(tokenizer)
    passages = [model.chunker.chunk(text) for text in TEXTS]
    together = model.encode(passages, batch_size=3)
    for passage, found in zip(passages, together, strict=True):
        torch.testing.assert_close(model.encode([passage])[0], found, atol=1e-5, rtol=1e-5)


def foreign(tokenizer, *, positions=64, roberta=False):
    """An encoder with another vocabulary than the decoder's."""
    own = train_tokenizer(World(), vocab_size=400, passages=50, seed=3)
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(own),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": positions,
    }
    if roberta:
        encoder = RobertaModel(RobertaConfig(**shape, pad_token_id=1), add_pooling_layer=False)
    else:
        encoder = BertModel(BertConfig(**shape), add_pooling_layer=False)
    config = RefragConfig(name="t", k=8, window=32, encoder_width=32, decoder_width=8)
    chunker = Chunker(PlainTokenizer(tokenizer), config)
    return ChunkEncoder(encoder.eval(), own, config), chunker, PlainTokenizer(own)


def test_two_tokenizers_pool_by_character_overlap(tokenizer):
    encoder, chunker, own = foreign(tokenizer)
    passage = chunker.chunk(TEXT.strip() + " 東京 🦀.")
    (found,) = encoder.encode([passage])
    row = 0
    lengths = list(passage.chunk_lengths)
    texts = passage.chunk_texts()
    while row < len(texts):
        last, total = row, 0
        while last < len(texts) and total + lengths[last] <= 32:
            total += lengths[last]
            last += 1
        ids, offsets = own.encode("".join(texts[row:last]))
        with torch.inference_mode():
            hidden = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        start = 0
        for text in texts[row:last]:
            weights = torch.tensor(
                [max(0, min(b, start + len(text)) - max(a, start)) for a, b in offsets]
            ).float()
            expected = (weights / weights.sum()) @ hidden
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
            start += len(text)
            row += 1


def test_windows_close_at_the_encoders_own_limit(tokenizer):
    encoder, chunker, _ = foreign(tokenizer, positions=20)
    passage = chunker.chunk(TEXT * 3)
    assert max(len(window.ids) for window in encoder.windows(passage)) <= 20
    assert encoder.encode([passage])[0].shape == (len(passage), 32)


def test_a_chunk_longer_than_the_encoder_is_refused(tokenizer):
    encoder, chunker, _ = foreign(tokenizer, positions=4)
    with pytest.raises(InputError, match="the encoder reads 4"):
        encoder.encode([chunker.chunk("Quixotic zephyrs jumbled vexingly 1234567890.")])


def test_roberta_positions_start_after_its_padding_id(tokenizer):
    encoder, chunker, _ = foreign(tokenizer, positions=34, roberta=True)
    assert encoder.limit == 32
    assert encoder.encode([chunker.chunk(TEXT * 4)])[0].isfinite().all()


def test_cls_pooling_needs_a_first_token(tokenizer):
    config = RefragConfig(name="t", k=8, window=8, pooling="cls", encoder_width=32, decoder_width=8)
    encoder, _, _ = foreign(tokenizer)
    bare = train_tokenizer(World(), vocab_size=400, passages=20, seed=3)
    bare.bos_token = None
    with pytest.raises(CheckpointError, match="Use 'mean' pooling"):
        ChunkEncoder(encoder.model, bare, config)


# --- masks ---------------------------------------------------------------------------------


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


def test_an_encoder_too_small_for_a_chunk_is_refused(tokenizer):
    model = build_model(tokenizer)
    config = dataclasses.replace(model.config, overlap=30, encoder_width=48)
    with pytest.raises(CheckpointError, match="room for a chunk"):
        ChunkEncoder(BERT.model(), tokenizer, config)
