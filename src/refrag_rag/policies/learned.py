"""Expand what a trained network chooses: `learned` and `learned-query`."""

import numpy as np
import torch
from numpy.typing import NDArray

from refrag_rag.policies.base import QUESTION, Chunks
from refrag_rag.policies.lexical import SHARES, chunk_parts, question_words
from refrag_rag.policies.network import PolicyNetwork
from refrag_rag.policies.ranking import Ranking

LEARNED, LEARNED_QUERY = "learned", "learned-query"


class ExpandLearned(Ranking):
    """The chunks of the highest logits. Belongs to the model whose embeddings it was trained on.

    Parameters
    ----------
    network
        Trained by ``refrag train policy``.
    """

    def __init__(self, network: PolicyNetwork) -> None:
        self.network = network.eval()
        self.name = LEARNED_QUERY if network.shape.query else LEARNED
        self.needs = frozenset({QUESTION}) if network.shape.query else frozenset()

    @torch.inference_mode()
    def scores(self, chunks: Chunks, question: str) -> NDArray[np.float32]:
        """The network's logits."""
        logits: NDArray[np.float32] = chunk_logits(self.network, chunks, question).cpu().numpy()
        return logits


def chunk_logits(network: PolicyNetwork, chunks: Chunks, question: str) -> torch.Tensor:
    """Logits of *shape* (L,) on the network's device, with gradient where it is recorded."""
    device = network.input.weight.device
    embeddings = torch.from_numpy(np.asarray(chunks.embeddings, np.float32)).to(device)
    if not network.shape.query or chunks.question is None:
        logits: torch.Tensor = network(embeddings)
        return logits
    asked = torch.from_numpy(np.asarray(chunks.question, np.float32)).to(device)
    words = torch.from_numpy(word_shares(chunks, question)).to(device)
    logits = network(embeddings, asked, words)
    return logits


def word_shares(chunks: Chunks, question: str) -> NDArray[np.float32]:
    """What `lexical` finds, divided by its highest score; *shape* (L, 4)."""
    asked = question_words(question)
    if not asked:
        return np.zeros((len(chunks.texts), len(SHARES)), np.float32)
    parts = chunk_parts(chunks, asked)
    return np.asarray(parts / max(1e-6, (parts * SHARES).sum(1).max(initial=0.0)), np.float32)
