"""Expand chunks that share rare words, numbers or names with the question."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks

STOPWORDS = frozenset(
    "a an and are as at be by did do does for from had has have how in into is it its many much of "
    "on or s she he than that the their there they this to was were what when where which who whom "
    "whose why will with".split()
)
PASSAGE_SHARE = 0.6  # of its passage's score: the title names what a later chunk tells about
NEIGHBOUR_SHARE = 0.5  # of the chunks before and after: an answer often begins in the next chunk
NAME_WEIGHT = 1.5


class ExpandLexical:
    """Scores chunks by the words of the question, rare ones first, and expands the best.

    A chunk counts what it matches itself, a share of what the chunks around it match, and a share
    of what its passage matches. Chunks of passages without any match are never expanded.
    """

    name = "lexical"

    def select(self, chunks: Chunks, question: str, budget: int) -> NDArray[np.bool_]:
        """Choose the chunks of the highest scores, the earlier one on a tie."""
        mask = np.zeros(len(chunks.texts), bool)
        asked = question_words(question)
        if not asked or not budget:
            return mask
        scores = chunk_scores(chunks, asked)
        order = np.argsort(-scores, kind="stable")[:budget]
        mask[order[scores[order] > 0]] = True
        return mask


def question_words(question: str) -> dict[str, float]:
    """Stems of the question's words with their weights; names and numbers weigh more."""
    words = re.findall(r"\w+", question)
    found = {}
    for place, word in enumerate(words):
        if word.lower() in STOPWORDS:
            continue
        special = word[0].isdigit() or (word[0].isupper() and place > 0)
        found[stem(word)] = NAME_WEIGHT if special else 1.0
    return found


def chunk_scores(chunks: Chunks, asked: dict[str, float]) -> NDArray[np.float64]:
    """Scores of *shape* (L,).

    Words are looked for in whole passages and laid to every chunk that holds a part of them, since
    a chunk may end in the middle of a word.
    """
    matches = np.zeros((len(chunks.texts), len(asked)))
    places = {word: place for place, word in enumerate(asked)}
    for passage in range(int(chunks.passages[-1]) + 1):
        rows = np.flatnonzero(chunks.passages == passage)
        for row, word in _words([chunks.texts[int(i)] for i in rows]):
            if word in places:
                matches[rows[row], places[word]] = 1
    counts = Counter(
        word
        for passage in np.unique(chunks.passages)
        for word, found in zip(asked, matches[chunks.passages == passage].any(0), strict=True)
        if found
    )
    total = int(chunks.passages[-1]) + 1
    weights = np.array([w * math.log(1 + total / (counts[s] or 1)) for s, w in asked.items()])
    own = matches @ weights  # (L,)
    same = chunks.passages[1:] == chunks.passages[:-1]
    around = np.zeros_like(own)
    around[1:] = np.maximum(around[1:], own[:-1] * same)
    around[:-1] = np.maximum(around[:-1], own[1:] * same)
    whole = np.zeros_like(own)
    for passage in np.unique(chunks.passages):
        rows = chunks.passages == passage
        whole[rows] = matches[rows].any(0) @ weights
    scores: NDArray[np.float64] = own + NEIGHBOUR_SHARE * around + PASSAGE_SHARE * whole
    return scores


def stem(word: str) -> str:
    """Fold case, plurals and common verb endings, crudely."""
    folded = word.lower()
    for ending in ("ing", "ed", "es", "s", "e"):
        if folded.endswith(ending) and len(folded) - len(ending) >= 3:
            return folded[: -len(ending)]
    return folded


def _words(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Word stems of a passage, once for each of its chunks that holds a part of the word."""
    ends = np.cumsum([len(text) for text in texts])
    found = []
    for match in re.finditer(r"\w+", "".join(texts)):
        first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right")
        found += [(row, stem(match[0])) for row in range(int(first), int(last) + 1)]
    return found
