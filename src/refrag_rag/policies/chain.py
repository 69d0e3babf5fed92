"""Several policies under one limit, one after another."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError
from refrag_rag.policies.base import Chunks, Policy, needs_of
from refrag_rag.policies.ranking import choose


class ExpandChain:
    """The first policy takes what it wants of the limit, the next spends what is left.

    A chain keeps to its limit: of what a policy chooses beyond it, the earliest chunks count. So
    ``all`` fills what is left in reading order, and ``none`` leaves everything to the next one.

    Parameters
    ----------
    policies
        At least one. They see all chunks, and which of them are taken.
    shares
        Of the limit, what each may take at most, above 0; 1 by default: whatever is left.

    Raises
    ------
    InputError
        If there is no policy, something else among them, or a share that is none.
    """

    def __init__(self, policies: Sequence[Policy], shares: Sequence[float] = ()) -> None:
        if not policies:
            raise InputError("A chain of no policies; expected at least one.")
        for policy in policies:
            if not hasattr(policy, "select"):
                raise InputError(
                    f"A chain with {policy!r}; expected policies. Names are joined with '+': "
                    "get_policy('exact+lexical')."
                )
        self.policies, self.shares = tuple(policies), tuple(shares) or (1.0,) * len(policies)
        if len(self.shares) != len(policies) or not all(0 < share <= 1 for share in self.shares):
            raise InputError(
                f"shares = {shares} of a chain of {len(policies)}; expected one for each policy, "
                "above 0 and at most 1."
            )
        names = [policy.name for policy in policies]
        self.name = "+".join(
            name if share == 1 else f"{name}:{share:g}"
            for name, share in zip(names, self.shares, strict=True)
        )
        self.needs = frozenset[str]().union(*map(needs_of, policies))

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:
        """Let one policy after the other choose, until the limit is spent."""
        mask = np.zeros(len(chunks.texts), bool)
        before = mask if chunks.taken is None else chunks.taken  # by a chain around this one
        for policy, share in zip(self.policies, self.shares, strict=True):
            left = min(limit - int(mask.sum()), math.ceil(share * limit))
            if left <= 0:
                break
            taken = before | mask
            chosen = choose(policy, replace(chunks, taken=taken), question, left).expanded
            mask[np.flatnonzero(chosen & ~taken)[:left]] = True
        return mask
