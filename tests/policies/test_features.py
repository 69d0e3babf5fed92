"""What `learned-query` knows of chunks, and prompts of like length read together."""

import numpy as np
import torch

from refrag_rag.policies import Chunks
from refrag_rag.policies.features import FEATURES, WORDS, chunk_features
from refrag_rag.policies.learned import TOGETHER, chunk_logits
from refrag_rag.policies.network import NetworkShape, PolicyNetwork

QUESTION = "Who made clocks?"


def chunks(sizes, retrieval, width=8):
    rng = np.random.default_rng(sum(sizes))
    return Chunks(
        texts=[f"Keld {n} made clocks." for n in range(sum(sizes))],
        passages=np.repeat(np.arange(len(sizes)), sizes),
        embeddings=rng.normal(size=(sum(sizes), width)).astype("f4"),
        scores={},
        retrieval=retrieval,
        question=rng.normal(size=(2, width)).astype("f4"),
    )


def test_features_of_passages_are_laid_to_their_chunks():
    features = chunk_features(chunks([2, 3], [0.9, 0.1]), QUESTION)
    assert features.shape == (5, FEATURES)
    retrieved, rank, known, first, place, length = features[:, WORDS:].T
    np.testing.assert_allclose(retrieved, [1, 1, -1, -1, -1])
    np.testing.assert_allclose(rank, [1, 1, 0.5, 0.5, 0.5])
    assert known.tolist() == [1] * 5
    assert first.tolist() == [1, 0, 1, 0, 0]
    np.testing.assert_allclose(place, [0, 0.05, 0, 0.05, 0.1])
    np.testing.assert_allclose(length, [0.1, 0.1, 0.15, 0.15, 0.15])


def test_without_a_ranking_nothing_is_said_of_it():
    for retrieval in ([None, None], [0.5, 0.5]):
        assert not chunk_features(chunks([2, 3], retrieval), QUESTION)[:, WORDS : WORDS + 3].any()


def test_prompts_of_any_length_are_read_as_if_alone():
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkShape(chunk_width=8, width=16, query=True)).eval()
    torch.nn.init.normal_(network.output[-1].weight)
    sizes = [TOGETHER // 4, 3, TOGETHER // 2, 5, 1]
    seen = [chunks([size, 2], [0.3, 0.7]) for size in sizes]
    together = chunk_logits(network, seen, [QUESTION] * len(seen))
    for one, logits in zip(seen, together, strict=True):
        (alone,) = chunk_logits(network, [one], [QUESTION])
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
