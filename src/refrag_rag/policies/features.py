"""What `learned-query` knows of a chunk beside embeddings: words, the retriever's score, places."""

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.hybrid import standard_scores
from refrag_rag.policies.lexical import SHARES, chunk_parts, question_words

WORDS = len(SHARES)
FEATURES = WORDS + 6
_MANY = 20.0  # chunks; brings counts to the size of the other features


def chunk_features(chunks: Chunks, question: str) -> NDArray[np.float32]:
    """Features of all chunks of a prompt.

    Returns
    -------
    ndarray
        *Shape:* (L, 10). What chunk, sentence, neighbours and passage match of the question's words
        (see `word_shares`); of its passage the retrieval score in standard deviations, the
        reciprocal rank, and whether there is a ranking at all (all three 0 without one); whether
        the chunk is its passage's first; its place in the passage and the passage's length, in
        twenties of chunks.
    """
    features = np.zeros((len(chunks.texts), FEATURES), np.float32)
    features[:, :WORDS] = word_shares(chunks, question)
    retrieved = standard_scores(chunks.retrieval)
    if retrieved.any():
        rank = np.argsort(np.argsort(-retrieved, kind="stable"), kind="stable")
        known = np.column_stack([retrieved, 1 / (1 + rank), np.ones(len(rank))])  # (passages, 3)
        features[:, WORDS : WORDS + 3] = known[chunks.passages]
    for start, stop in chunks.runs():
        features[start, WORDS + 3] = 1
        features[start:stop, WORDS + 4] = np.arange(stop - start) / _MANY
        features[start:stop, WORDS + 5] = (stop - start) / _MANY
    return features


def word_shares(chunks: Chunks, question: str) -> NDArray[np.float32]:
    """What `lexical` finds, divided by its highest score; *shape* (L, 4)."""
    asked = question_words(question)
    if not asked:
        return np.zeros((len(chunks.texts), WORDS), np.float32)
    parts = chunk_parts(chunks, asked)
    return np.asarray(parts / max(1e-6, (parts * SHARES).sum(1).max(initial=0.0)), np.float32)
