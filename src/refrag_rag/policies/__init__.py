"""Policies: which chunks to expand. One file each, one line in the registry."""

from collections.abc import Callable

from refrag_rag.errors import InputError
from refrag_rag.policies.all import ExpandAll
from refrag_rag.policies.base import Chunks, Policy, budget
from refrag_rag.policies.lexical import ExpandLexical
from refrag_rag.policies.none import ExpandNone
from refrag_rag.policies.random import ExpandRandom

__all__ = ["POLICIES", "Chunks", "Policy", "budget", "get_policy"]

POLICIES: dict[str, Callable[[], Policy]] = {
    "none": ExpandNone,
    "all": ExpandAll,
    "random": ExpandRandom,
    "lexical": ExpandLexical,
}


def get_policy(policy: str | Policy) -> Policy:
    """A policy by its name, or the policy itself.

    Raises
    ------
    InputError
        If there is no policy of that name.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise InputError(f"No policy {policy!r}; expected one of {', '.join(POLICIES)}.")
    return POLICIES[policy]()
