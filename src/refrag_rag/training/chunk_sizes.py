"""Chunk sizes in training: they grow first, then one of the model's own is drawn."""

from dataclasses import dataclass
from itertools import accumulate
from random import Random

from refrag_rag.config import RefragConfig
from refrag_rag.errors import InputError

EARLIER = 0.15  # how often, while chunks grow, the size before is drawn


@dataclass(frozen=True)
class ChunkSizes:
    """Draws the size of an example's chunks, in tokens.

    A decoder that reads text finds its way into vectors of one token at once; two, four and eight
    are small steps from there, while eight from nothing are a large one.

    Attributes
    ----------
    sizes
        One is drawn an example; what stands here twice is drawn twice as often.
    grow
        Sizes to grow through before that, each for a part in proportion to itself.
    growing
        Share of the run in which they grow.
    """

    sizes: tuple[int, ...]
    grow: tuple[int, ...] = ()
    growing: float = 1.0

    def draw(self, rng: Random, share: float) -> int:
        """The size of one example once `share` (0 to 1) of the run is done."""
        if self.grow and share < self.growing:
            place = self._place(share / self.growing)
            earlier = place > 0 and rng.random() < EARLIER
            return self.grow[place - earlier]
        return self.sizes[0] if len(self.sizes) == 1 else rng.choice(self.sizes)

    def _place(self, share: float) -> int:
        ends = accumulate(self.grow)
        return sum(end <= share * sum(self.grow) for end in ends)


def chunk_sizes(
    config: RefragConfig, sizes: tuple[int, ...], grow: tuple[int, ...], growing: float
) -> ChunkSizes:
    """The sizes of a run, checked against what the model can hold.

    Raises
    ------
    InputError
        Names the setting.
    """
    most = max(config.sizes)
    if grow and (list(grow) != sorted(set(grow)) or grow[0] < 1 or grow[-1] > most):
        raise InputError(
            f"grow = {grow}; expected ascending chunk sizes between 1 and {most}, as 1 2 4 8."
        )
    if not set(sizes) <= set(config.sizes):
        known = ", ".join(map(str, sorted(config.sizes)))
        raise InputError(f"sizes = {sizes}; expected chunk sizes of the model ({known}).")
    if not 0 < growing <= 1:
        raise InputError(f"growing = {growing}; expected a share of the run above 0, at most 1.")
    return ChunkSizes(sizes or (config.k,), grow, growing)
