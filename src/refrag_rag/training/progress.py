"""How far a run is, and the learning rate there."""

import math
from dataclasses import dataclass

from refrag_rag.training.settings import LoopSettings


@dataclass(frozen=True)
class Progress:
    """How far a stage is, in steps, seconds and tokens; what is furthest counts."""

    settings: LoopSettings
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        minutes, tokens = self.settings.minutes, self.settings.tokens
        by_time = self.seconds / (60 * minutes) if minutes else 0.0
        by_tokens = self.tokens / tokens if tokens else 0.0
        return max(self.step / self.settings.steps, by_time, by_tokens)

    @property
    def lr(self) -> float:
        """Linear warm-up, then a cosine, or constant and linear to zero at the end."""
        settings = self.settings
        warmup = settings.warmup if settings.warmup > 1 else settings.warmup * settings.steps
        warm = min(1.0, (self.step + 1) / max(1.0, warmup))
        left = max(0.0, 1 - self.share)
        if settings.schedule == "linear":
            return settings.lr * warm * min(1.0, left / settings.decay)
        return settings.lr * warm * (1 - math.cos(math.pi * left)) / 2
