"""How far a run is, and the learning rate there."""

import math

from refrag_rag.training.settings import LoopSettings


class Progress:
    """How far a stage is, in steps, minutes or tokens, whichever is furthest."""

    def __init__(
        self, settings: LoopSettings, step: int = 0, seconds: float = 0.0, tokens: int = 0
    ) -> None:
        self.settings, self.step, self.seconds, self.tokens = settings, step, seconds, tokens

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        minutes = self.settings.minutes
        by_time = self.seconds / (60 * minutes) if minutes else 0.0
        tokens = self.settings.tokens
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
