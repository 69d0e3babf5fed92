"""How tokens are chosen, for a whole batch at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from refrag_rag.generation.request import Sampling


class Sampler:
    """Chooses the next tokens of B sequences; every sequence has its own random state.

    Parameters
    ----------
    prompts
        Token ids of each prompt's text, for the repetition penalty.
    """

    def __init__(
        self, sampling: Sampling, prompts: Sequence[NDArray[np.int64]], device: torch.device
    ) -> None:
        self._sampling, self._prompts = sampling, prompts
        self._seen: Tensor | None = None  # (B, vocabulary), bool
        self._warpers = _warpers(sampling)
        self._generators = [_generator(sampling, device) for _ in prompts]

    def choose(self, logits: Tensor) -> list[int]:
        """Draw one token a row from logits of *shape* (B, vocabulary)."""
        scores = logits.float()
        if self._sampling.repetition_penalty != 1:
            scores = self._penalised(scores)
        if self._sampling.temperature == 0:
            chosen = scores.argmax(-1)  # (B,)
        else:
            for warp in self._warpers:
                scores = warp(None, scores)
            rows = zip(scores.softmax(-1), self._generators, strict=True)
            chosen = torch.cat([torch.multinomial(row, 1, generator=own) for row, own in rows])
        if self._seen is not None:
            self._seen.scatter_(1, chosen[:, None], value=True)
        tokens: list[int] = chosen.tolist()
        return tokens

    def _penalised(self, scores: Tensor) -> Tensor:
        """What was read or written before becomes less likely (CTRL, arXiv 1909.05858)."""
        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, ids in zip(self._seen, self._prompts, strict=True):
                row[torch.from_numpy(ids).to(row.device)] = True
        penalty = self._sampling.repetition_penalty
        return torch.where(
            self._seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores
        )


def _warpers(sampling: Sampling) -> list[Any]:
    warpers: list[Any] = []
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator
