"""Expand chunks that share rare words, numbers or names with the question."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import Ranking

STOPWORDS = frozenset(
    "a an and are as at be by did do does for from had has have how in into is it its many much of "
    "on or s she he than that the their there they this to was were what when where which who whom "
    "whose why will with".split()
)
PASSAGE_SHARE = 0.6  # of its passage's score: the title names what a later chunk tells about
NEIGHBOUR_SHARE = 0.5  # of the chunks before and after: an answer often begins in the next chunk
NAME_WEIGHT = 1.5


class ExpandLexical(Ranking):
    """Scores chunks by the words of the question, rare ones first, and expands the best.

    A chunk counts what it matches itself, a share of what the chunks around it match, and a share
    of what its passage matches. Chunks of passages without any match are never expanded.
    """

    name = "lexical"

    def scores(self, chunks: Chunks, question: str) -> NDArray[np.float64]:
        """What each chunk matches of the question."""
        asked = question_words(question)
        if not asked:
            return np.full(len(chunks.texts), np.nan)
        scores = chunk_scores(chunks, asked)
        return np.where(scores > 0, scores, np.nan)


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
    runs = chunks.runs()
    for start, stop in runs:
        for row, place in _matches(chunks.texts[start:stop], places):
            matches[start + row, place] = 1
    starts, stops = np.array(runs).T
    held = np.maximum.reduceat(matches, starts, axis=0)  # (passages, words)
    total = int(chunks.passages[-1]) + 1
    rarity = np.log(1 + total / np.maximum(held.sum(0), 1))
    weights = rarity * np.array(list(asked.values()))
    own = matches @ weights  # (L,)
    same = chunks.passages[1:] == chunks.passages[:-1]
    around = np.zeros_like(own)
    around[1:] = np.maximum(around[1:], own[:-1] * same)
    around[:-1] = np.maximum(around[:-1], own[1:] * same)
    whole = np.repeat((held * weights).sum(1), stops - starts)  # equal rows give equal sums
    scores: NDArray[np.float64] = own + NEIGHBOUR_SHARE * around + PASSAGE_SHARE * whole
    return scores


def stem(word: str) -> str:
    """Fold case, plurals and common verb endings, crudely."""
    folded = word.lower()
    for ending in ("ing", "ed", "es", "s", "e"):
        if folded.endswith(ending) and len(folded) - len(ending) >= 3:
            return folded[: -len(ending)]
    return folded


def _matches(texts: Sequence[str], places: Mapping[str, int]) -> list[tuple[int, int]]:
    """Chunk and place of each word of a passage that is asked for, for every chunk it touches."""
    ends = np.cumsum([len(text) for text in texts])
    found = []
    for match in re.finditer(r"\w+", "".join(texts)):
        place = places.get(stem(match[0]))
        if place is not None:
            first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right")
            found += [(row, place) for row in range(int(first), int(last) + 1)]
    return found
