"""How tokens are chosen, for a whole batch at once."""

from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from refrag_rag.generation.request import Sampling

COLDEST = 1e-6  # temperatures below it would overflow, and choose nothing else


class Sampler:
    """Chooses the next tokens of B sequences; every sequence has its own random state."""

    def __init__(self, sampling: Sampling, batch: int, device: torch.device) -> None:
        self._sampling = sampling
        self._written: Tensor | None = None  # (B, vocabulary), bool
        self._warpers = _warpers(sampling)
        self._generators = [_generator(sampling, device) for _ in range(batch)]

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
        if self._written is not None:
            self._written.scatter_(1, chosen[:, None], value=True)
        tokens: list[int] = chosen.tolist()
        return tokens

    def _penalised(self, scores: Tensor) -> Tensor:
        """What the answer said already becomes less likely (CTRL, arXiv 1909.05858).

        The prompt does not count, as where transformers is given embeddings: a vector has no
        ids, and a word would be harder to quote for standing in an expanded chunk.
        """
        if self._written is None:
            self._written = torch.zeros_like(scores, dtype=torch.bool)
        penalty = self._sampling.repetition_penalty
        return torch.where(
            self._written, torch.where(scores < 0, scores * penalty, scores / penalty), scores
        )


def _warpers(sampling: Sampling) -> list[Any]:
    warpers: list[Any] = []
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(max(float(sampling.temperature), COLDEST)))
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
