"""Policies: which chunks to expand. One file each, one line in the registry."""

from collections.abc import Callable, Mapping

from refrag_rag.errors import InputError
from refrag_rag.policies.all import ExpandAll
from refrag_rag.policies.base import QUESTION, Chunks, Policy, limit_of, needs_of
from refrag_rag.policies.chain import ExpandChain
from refrag_rag.policies.exact import ExpandExact
from refrag_rag.policies.hybrid import ExpandHybrid
from refrag_rag.policies.lexical import ExpandLexical
from refrag_rag.policies.none import ExpandNone
from refrag_rag.policies.perplexity import ExpandPerplexity
from refrag_rag.policies.random import ExpandRandom
from refrag_rag.policies.ranking import Choice, Ranking, choose
from refrag_rag.policies.retrieval import ExpandRetrieval

__all__ = [
    "POLICIES",
    "QUESTION",
    "Choice",
    "Chunks",
    "ExpandChain",
    "Policy",
    "Ranking",
    "choose",
    "get_policy",
    "limit_of",
    "needs_of",
]

POLICIES: dict[str, Callable[[], Policy]] = {
    "none": ExpandNone,
    "all": ExpandAll,
    "random": ExpandRandom,
    "lexical": ExpandLexical,
    "hybrid": ExpandHybrid,
    "exact": ExpandExact,
    "retrieval": ExpandRetrieval,
    "perplexity": ExpandPerplexity,
}


def get_policy(policy: str | Policy, own: Mapping[str, Policy] | None = None) -> Policy:
    """A policy by its name, several by their names joined with ``+``, or the policy itself.

    Parameters
    ----------
    policy
        ``exact+lexical`` is a chain, ``retrieval:0.5+lexical`` one whose first policy may take half
        of what may be expanded: see `ExpandChain`.
    own
        Policies that belong to a model, beside those of the registry.

    Raises
    ------
    InputError
        If there is no policy of that name, or it is none.
    """
    if not isinstance(policy, str):
        if not (isinstance(getattr(policy, "name", None), str) and hasattr(policy, "select")):
            raise InputError(
                f"policy = {policy!r}; expected a name ({', '.join(POLICIES)}) or a policy, "
                "which has a name and select()."
            )
        return policy
    parts = [part.partition(":") for part in policy.split("+")]
    found = [_by_name(name.strip(), own or {}) for name, _, _ in parts]
    if len(found) == 1 and not parts[0][1]:
        return found[0]
    return ExpandChain(
        found, [_share(share, policy) if given else 1.0 for _, given, share in parts]
    )


def _share(text: str, policy: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"policy = {policy!r}; expected a share behind ':', such as retrieval:0.5+lexical."
        ) from error


def _by_name(name: str, own: Mapping[str, Policy]) -> Policy:
    if name in POLICIES:
        return POLICIES[name]()
    if name in own:
        return own[name]
    known = ", ".join((*POLICIES, *own))
    raise InputError(f"No policy {name!r}; expected one of {known}, or several joined by '+'.")
