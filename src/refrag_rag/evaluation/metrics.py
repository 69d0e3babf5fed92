"""Exact match, F1 and intervals, as SQuAD and statistics textbooks define them."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


def normalise(text: str) -> str:
    """Lower-case, without punctuation, articles and superfluous spaces (SQuAD)."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(answer: str, expected: Sequence[str]) -> bool:
    """Whether the answer equals one of the expected ones after normalisation."""
    return normalise(answer) in {normalise(one) for one in expected}


def f1(answer: str, expected: Sequence[str]) -> float:
    """Best word-overlap F1 over the expected answers."""
    return max((_f1(normalise(answer), normalise(one)) for one in expected), default=0.0)


def wilson(right: int, total: int) -> tuple[float, float]:
    """95% Wilson interval of a share."""
    if not total:
        return 0.0, 1.0
    z, share = 1.959964, right / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - spread) / scale, (middle + spread) / scale


def bootstrap(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean, resampling questions.

    Paired, if the values are differences on the same questions.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    low, high = np.percentile(counts @ values / len(values), [2.5, 97.5])
    return float(low), float(high)


def _f1(answer: str, expected: str) -> float:
    common = sum((Counter(answer.split()) & Counter(expected.split())).values())
    if not common:
        return float(answer == expected)
    precision, recall = common / len(answer.split()), common / len(expected.split())
    return 2 * precision * recall / (precision + recall)
