"""The paper's length curriculum (REFRAG, Table 8): many short examples first, long ones later."""

from collections.abc import Sequence
from random import Random
from typing import Any

from refrag_rag.training.growth import ChunkGrowth

STAGES = 9
# Chunks in the context: share in the first stage, factor from stage to stage.
TABLE_8 = {
    1: (1333.0, 0.333),
    2: (333.0, 0.895),
    4: (83.0, 1.235),
    8: (20.0, 1.745),
    16: (5.0, 2.13),
    32: (1.0, 2.66),
    64: (1.0, 2.92),
    128: (1.0, 2.92),
    256: (1.0, 2.92),
}


def length_weights(lengths: Sequence[int], share: float) -> list[float]:
    """How often each length is drawn once `share` (0 to 1) of the training is done."""
    stage = min(STAGES - 1, int(share * STAGES))
    return [TABLE_8[length][0] * TABLE_8[length][1] ** stage for length in lengths]


class LengthCurriculum:
    """Draws context lengths in chunks and keeps the running accuracy of each.

    Parameters
    ----------
    growth
        Gives the chunk size of a step, and is told how well it was rebuilt.
    lengths
        Numbers of chunks to draw from.
    """

    def __init__(self, growth: ChunkGrowth, lengths: Sequence[int] = (1, 2, 4, 8, 16)) -> None:
        self.growth = growth
        self.lengths = tuple(lengths)
        self.drawn = self.lengths[0]
        self.accuracy = dict.fromkeys(self.lengths, 0.0)
        self.loss = dict.fromkeys(self.lengths, 0.0)

    def draw(self, rng: Random, share: float) -> int:
        """Draw the length of the next step (to be followed by one `record`)."""
        self.drawn = rng.choices(self.lengths, length_weights(self.lengths, share))[0]
        return self.drawn

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the step's result."""
        self.growth.record(accuracy)
        for table, value in ((self.accuracy, accuracy), (self.loss, loss)):
            old = table[self.drawn]
            table[self.drawn] = 0.95 * old + 0.05 * value if old else value

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {
            "k": self.growth.current,
            "accuracy_by_k": {n: round(a, 3) for n, a in self.growth.accuracy.items() if a},
            "accuracy": {n: round(value, 3) for n, value in self.accuracy.items()},
            "target_loss": {n: round(value, 3) for n, value in self.loss.items()},
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "growth": self.growth.state(),
            "drawn": self.drawn,
            "accuracy": self.accuracy,
            "loss": self.loss,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.growth.restore(state["growth"])
        self.drawn = state["drawn"]  # JSON has turned the lengths into text
        self.accuracy = {int(n): value for n, value in state["accuracy"].items()}
        self.loss = {int(n): value for n, value in state["loss"].items()}
