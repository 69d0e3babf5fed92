"""How tokens are chosen."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from refrag_rag.request import Sampling


class Sampler:
    """Chooses the next token of one sequence; every sequence has its own random state."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._greedy = sampling.temperature == 0
        self._ids = torch.tensor([list(prompt_ids)], dtype=torch.long, device=device)  # (1, n)
        self._generator = None
        if not self._greedy:
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)
        self._processors = _processors(sampling)

    def choose(self, logits: Tensor) -> int:
        """Draw from logits of *shape* (vocabulary,)."""
        scores: Tensor = self._processors(self._ids, logits[None].float())  # (1, vocabulary)
        if self._greedy:
            token = int(scores.argmax())
        else:
            drawn = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
            token = int(drawn)
        self._ids = torch.cat([self._ids, self._ids.new_tensor([[token]])], dim=1)
        return token


def _processors(sampling: Sampling) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature in (0, 1):
        pass
    else:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.temperature and sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.temperature and sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found
