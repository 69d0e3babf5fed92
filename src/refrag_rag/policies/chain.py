"""Several policies under one limit, one after another."""

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

    Raises
    ------
    InputError
        If there is no policy, or something else among them.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        if not policies:
            raise InputError("A chain of no policies; expected at least one.")
        for policy in policies:
            if not hasattr(policy, "select"):
                raise InputError(
                    f"A chain with {policy!r}; expected policies. Names are joined with '+': "
                    "get_policy('exact+lexical')."
                )
        self.policies = tuple(policies)
        self.name = "+".join(policy.name for policy in policies)
        self.needs = frozenset[str]().union(*map(needs_of, policies))

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:
        """Let one policy after the other choose, until the limit is spent."""
        mask = np.zeros(len(chunks.texts), bool)
        before = mask if chunks.taken is None else chunks.taken  # by a chain around this one
        for policy in self.policies:
            left = limit - int(mask.sum())
            if left <= 0:
                break
            taken = before | mask
            chosen = choose(policy, replace(chunks, taken=taken), question, left).expanded
            mask[np.flatnonzero(chosen & ~taken)[:left]] = True
        return mask
