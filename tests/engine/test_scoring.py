"""Scores of the decoder: equal to a slow reference, named by the decoder that made them."""

import copy
import math

import numpy as np
import pytest
import torch
from tokenizers import processors

from refrag_rag.engine.scoring import (
    Perplexity,
    Stretch,
    batches,
    chunk_means,
    decoder_fingerprint,
    stretches,
)
from refrag_rag.text.chunking import ChunkedPassage
from tests.conftest import build_model
from tests.engine.test_engine import PASSAGES

LONG = " ".join(f"Sentence {i} tells of {i * 7}." for i in range(18))


@torch.inference_mode()
def slow(model, passage, first=()):
    """Mean losses of each chunk, one forward a token, without batches and windows."""
    ids = [*first, *passage.token_ids]
    losses = [math.nan] * len(passage.token_ids)
    for place in range(1, len(ids)):
        logits = model.decoder(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
        if place >= len(first):
            losses[place - len(first)] = -logits.log_softmax(-1)[ids[place]].item()
    stops = np.cumsum(passage.chunk_lengths)
    chunks = [losses[a:b] for a, b in zip([0, *stops], stops, strict=False)]
    known = [[value for value in chunk if not math.isnan(value)] for chunk in chunks]
    return [np.mean(chunk) if chunk else math.nan for chunk in known]


def chunked(model, texts):
    return [model.chunker.chunk(text) for text in texts]


def test_perplexity_is_that_of_the_decoder_token_by_token(model):
    passages = chunked(model, [*PASSAGES, "a", "naïve 🦀 株式会社"])
    for passage, scores in zip(passages, Perplexity(model).score(passages), strict=True):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, slow(model, passage), rtol=1e-4)


def test_the_first_token_counts_behind_a_bos_that_the_tokenizer_adds(tokenizer):
    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", adding.bos_token_id)]
    )
    assert adding("x").input_ids[0] == adding.bos_token_id
    model = build_model(adding)
    passages = chunked(model, ["a", PASSAGES[0]])
    found = Perplexity(model).score(passages)
    for passage, scores in zip(passages, found, strict=True):
        assert np.isfinite(scores).all()
        expected = slow(model, passage, first=[adding.bos_token_id])
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_a_chunk_of_one_token_without_context_has_no_score(tokenizer):
    model = build_model(tokenizer)
    alone = ChunkedPassage("a", (40,), (1,), (1,))
    assert np.isnan(Perplexity(model).score([alone])[0]).all()
    empty = ChunkedPassage("", (), (), ())
    assert [len(scores) for scores in Perplexity(model).score([empty, alone])] == [0, 1]
    assert Perplexity(model).score([]) == []


def test_a_passage_longer_than_the_window_is_read_in_overlapping_stretches(tokenizer):
    model = build_model(tokenizer, positions=64)
    (passage,) = chunked(model, [LONG])
    count = len(passage.token_ids)
    assert count > 3 * 64
    (scores,) = Perplexity(model).score([passage])
    losses = []  # each token after at least half a window of context, where there is so much
    for start, fresh, stop in [(0, 0, 64), *((f - 32, f, f + 32) for f in range(64, count, 32))]:
        ids = torch.tensor([passage.token_ids[start : min(stop, count)]])
        with torch.inference_mode():
            logs = model.decoder(input_ids=ids).logits[0].log_softmax(-1)
        read = [-logs[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1])]
        losses += [math.nan, *read][fresh - start :]
    expected = chunk_means(np.array(losses, np.float32), None, passage)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("window", [2, 3, 8])
def test_stretches_score_every_token_once(count, window):
    parts = list(stretches(5, count, window))
    assert [i for part in parts for i in range(part.fresh, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= window for part in parts)
    assert all(part.fresh - part.start == window // 2 for part in parts[1:])


def test_batches_hold_all_stretches_and_keep_to_the_size():
    parts = [Stretch(i, 0, 0, length) for i, length in enumerate([3, 50, 7, 7, 1, 20, 100])]
    made = list(batches(parts, 60, around=1))
    assert sorted(part.passage for batch in made for part in batch) == list(range(7))
    for batch in made:
        size = len(batch) * (max(part.stop for part in batch) + 1)
        assert size <= 60 or len(batch) == 1


def test_tokens_of_another_tokenizer_count_by_their_characters():
    passage = ChunkedPassage("abcdefgh", (1, 2, 3), (1, 1, 1), (2, 5, 8))
    offsets = [(0, 1), (1, 4), (4, 5), (4, 5), (5, 8)]
    losses = np.array([np.nan, 3.0, 1.0, 2.0, 7.0], np.float32)
    # 'bcd' lies in 'ab' by a third and in 'cde' by two
    expected = [3.0, (2 / 3 * 3.0 + 1.0 + 2.0) / (2 / 3 + 2), 7.0]
    np.testing.assert_allclose(chunk_means(losses, offsets, passage), expected, rtol=1e-6)
    np.testing.assert_allclose(
        chunk_means(losses[:3], None, passage), [np.nan, 3.0, 1.0], rtol=1e-6
    )


def test_chunks_cut_by_another_tokenizer_are_scored_over_the_decoders_tokens(model):
    """With both tokenizers the same, both ways must agree, but for tokens inside a character."""
    passages = chunked(model, PASSAGES)
    foreign = Perplexity(model)
    foreign._encode = lambda passage: foreign._tokenizer.encode(passage.text)
    found = foreign.score(passages)
    for ours, theirs in zip(Perplexity(model).score(passages), found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_name_tells_which_decoder_made_the_score(tokenizer):
    model, same = build_model(tokenizer), build_model(tokenizer, window=8, k=4, hidden=16)
    name = Perplexity(model).name
    assert name == f"perplexity.{decoder_fingerprint(model)}"
    assert len(name) == len("perplexity.") + 16
    same.decoder.load_state_dict(model.decoder.state_dict())
    assert Perplexity(same).name == name  # encoder and chunking are the namespace's business
    with torch.no_grad():
        next(same.decoder.parameters())[0, 0] += 1
    assert Perplexity(same).name != name
