"""Expand what a trained network chooses: `learned` and `learned-query`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from refrag_rag.policies.base import QUESTION, Chunks
from refrag_rag.policies.features import chunk_features
from refrag_rag.policies.network import PolicyNetwork
from refrag_rag.policies.ranking import Ranking

LEARNED, LEARNED_QUERY = "learned", "learned-query"
TOGETHER = 8192  # chunks, padding counted, that the network reads at once


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

    With gradient where it is recorded. Prompts of like length are read together.
    """
    lengths = [len(one.texts) for one in seen]
    found: dict[int, torch.Tensor] = {}
    for rows in _groups(lengths):
        group = _together(network, [seen[n] for n in rows], [questions[n] for n in rows])
        found |= {n: logits[: lengths[n]] for n, logits in zip(rows, group, strict=True)}
    return [found[n] for n in range(len(seen))]


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of prompts in order of length, as many together as `TOGETHER` allows."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        if group and (len(group) + 1) * lengths[place] > TOGETHER:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _together(
    network: PolicyNetwork, seen: Sequence[Chunks], questions: Sequence[str]
) -> torch.Tensor:
    asked = features = None
    if network.shape.query:
        nothing = np.zeros((0, network.shape.chunk_width), np.float32)
        asked = _padded(
            network, [nothing if one.question is None else one.question for one in seen]
        )
        pairs = zip(seen, questions, strict=True)
        features = _padded(network, [chunk_features(one, question) for one, question in pairs])
    logits: torch.Tensor = network(
        _padded(network, [one.embeddings for one in seen]), asked, features
    )
    return logits


def _padded(network: PolicyNetwork, arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
    tensors = [torch.from_numpy(np.asarray(array, np.float32)) for array in arrays]
    padded = pad_sequence(tensors, batch_first=True, padding_value=float("nan"))
    return padded.to(network.input.weight.device)
