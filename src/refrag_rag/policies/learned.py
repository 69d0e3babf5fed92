"""Expand what a trained network chooses: `learned` and `learned-query`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

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
        (logits,) = chunk_logits(self.network, [chunks], [question])
        scores: NDArray[np.float32] = logits.cpu().numpy()
        return scores


def chunk_logits(
    network: PolicyNetwork, seen: Sequence[Chunks], questions: Sequence[str]
) -> list[torch.Tensor]:
    """Logits of several prompts, each *shape* (L,), on the network's device.

    With gradient where it is recorded.
    """
    asked = words = None
    if network.shape.query:
        nothing = np.zeros((0, network.shape.chunk_width), np.float32)
        asked = _padded(
            network, [nothing if one.question is None else one.question for one in seen]
        )
        pairs = zip(seen, questions, strict=True)
        words = _padded(network, [word_shares(one, question) for one, question in pairs])
    logits = network(_padded(network, [one.embeddings for one in seen]), asked, words)
    return [row[: len(one.texts)] for row, one in zip(logits, seen, strict=True)]


def _padded(network: PolicyNetwork, arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
    tensors = [torch.from_numpy(np.asarray(array, np.float32)) for array in arrays]
    padded = pad_sequence(tensors, batch_first=True, padding_value=float("nan"))
    return padded.to(network.input.weight.device)


def word_shares(chunks: Chunks, question: str) -> NDArray[np.float32]:
    """What `lexical` finds, divided by its highest score; *shape* (L, 4)."""
    asked = question_words(question)
    if not asked:
        return np.zeros((len(chunks.texts), len(SHARES)), np.float32)
    parts = chunk_parts(chunks, asked)
    return np.asarray(parts / max(1e-6, (parts * SHARES).sum(1).max(initial=0.0)), np.float32)
