"""Log-perplexity of the gold tokens, with the chunks as text that a policy chooses."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from refrag_rag.engine.scoring import SCORERS
from refrag_rag.policies import Chunks, Policy
from refrag_rag.training.policy_cases import Case
from refrag_rag.training.policy_rollouts import Embeddings, mean_log_probs, see
from refrag_rag.training.reading import Reader

MEASURE = "log-perplexity of the gold tokens"


@dataclass(frozen=True)
class Point:
    """One policy at one budget.

    Attributes
    ----------
    k, p
        Tokens of a chunk, share of chunks that stay text.
    cases
        How many examples.
    value, low, high
        Mean log-perplexity over the cases, and its 95% bootstrap interval.
    """

    policy: str
    k: int
    p: float
    cases: int
    value: float
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Tokens for each position of the decoder: k / (1 - p + k p) (REFRAG, section 2)."""
        return self.k / (1 - self.p + self.k * self.p)


def look(reader: Reader, cases: Sequence[Case], needs: Collection[str] = ()) -> list[Chunks]:
    """What policies see of the cases, with the scores that they need."""
    scorers = {name: SCORERS[name](reader.model) for name in needs if name in SCORERS}
    embeddings, seen = Embeddings(reader), []
    for case in tqdm(cases, desc="embeddings", mininterval=10):
        scores = {name: np.concatenate(s.score(case.chunked)) for name, s in scorers.items()}
        (chunks,) = see(embeddings, [case])
        seen.append(replace(chunks, scores=scores))
    return seen


def log_perplexities(
    reader: Reader,
    cases: Sequence[Case],
    seen: Sequence[Chunks],
    policy: Policy,
    p: float,
    *,
    rows_at_once: int = 8,
) -> NDArray[np.float64]:
    """Log-perplexity of each case's gold tokens, *shape* (cases,)."""
    rows = []
    for case, chunks in zip(cases, seen, strict=True):
        chosen = policy.select(chunks, case.question, case.allowed(p))
        rows.append(case.arranged(np.flatnonzero(chosen).tolist()))
    known = [chunks.embeddings for chunks in seen]
    return -mean_log_probs(reader, rows, rows_at_once, known).double().numpy()
