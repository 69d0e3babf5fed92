"""Expand chunks that share rare words, numbers or names with the question."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import Ranking
from refrag_rag.text.tokenization import sentence_ends

STOPWORDS = frozenset(
    "a an and are as at be by did do does for from had has have how in into is it its many much of "
    "on or s she he than that the their there they this to was were what when where which who whom "
    "whose why will with".split()
)
OWN_SHARE = 1.0
SENTENCE_SHARE = 1.0  # of the best sentence that a chunk holds a part of
NEIGHBOUR_SHARE = 0.5  # of the chunks before and after, for text without sentences
PASSAGE_SHARE = 1.0  # of its passage's score: the title names what a later chunk tells about
SHARES = (OWN_SHARE, SENTENCE_SHARE, NEIGHBOUR_SHARE, PASSAGE_SHARE)
NAME_WEIGHT = 1.5


class ExpandLexical(Ranking):
    """Scores chunks by the words of the question, rare ones first, and expands the best.

    A chunk counts what it matches itself, and shares of what its sentence, the chunks around it
    and its passage match. A word counts more in few passages than in many, and within a passage
    more in few chunks than in many: the name that stands in every sentence finds the passage, but
    not the sentence. Chunks of passages without any match are never expanded.
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
    """Scores of *shape* (L,)."""
    scores: NDArray[np.float64] = (chunk_parts(chunks, asked) * SHARES).sum(1)
    return scores


def chunk_parts(chunks: Chunks, asked: dict[str, float]) -> NDArray[np.float64]:
    """What chunks, sentences, neighbours and passages match: *shape* (L, 4), as in `SHARES`.

    Words are looked for in whole passages and laid to every chunk that holds a part of them, since
    a chunk may end in the middle of a word.
    """
    places = {word: place for place, word in enumerate(asked)}
    # A stem is the beginning of its word, so that most words need not be looked at one by one.
    begins = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, asked))})\w*")
    found = [_find(chunks.texts[start:stop], places, begins) for start, stop in chunks.runs()]
    held = np.array([one.words.any(0) for one in found])  # (passages, W)
    total = int(chunks.passages[-1]) + 1
    rarity = np.log(1 + total / np.maximum(held.sum(0), 1))
    weights = rarity * np.array(list(asked.values()))
    whole = (held * weights).sum(1)  # equal rows give equal sums
    return np.concatenate(
        [
            np.column_stack([*_within(one, weights), np.full(len(one.words), passage)])
            for one, passage in zip(found, whole, strict=True)
        ]
    )


class _Found(NamedTuple):
    """Words of the question in one passage of n chunks and m sentences.

    Attributes
    ----------
    words, said
        *Shapes:* (n, W) and (m, W), bool; which chunk and which sentence holds which word.
    first, last
        *Shape:* (n,); sentences that a chunk holds a part of.
    """

    words: NDArray[np.bool_]
    said: NDArray[np.bool_]
    first: NDArray[np.intp]
    last: NDArray[np.intp]


def _find(texts: Sequence[str], places: Mapping[str, int], begins: re.Pattern[str]) -> _Found:
    text = "".join(texts)
    folded = text.lower()
    same = len(folded) == len(text)  # few letters have a longer small form
    matches = begins.finditer(folded) if same else re.finditer(r"\w+", text)
    ends = np.cumsum([len(part) for part in texts])
    stops = np.array([*sentence_ends(text), len(text)])
    words = np.zeros((len(texts), len(places)), bool)
    said = np.zeros((len(stops), len(places)), bool)
    for match in matches:
        place = places.get(stem(match[0]))
        if place is not None:
            first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right")
            words[first : last + 1, place] = True
            said[np.searchsorted(stops, match.start(), side="right"), place] = True
    first = np.searchsorted(stops, np.append(0, ends[:-1]), side="right")
    last = np.searchsorted(stops, ends - 1, side="right")
    return _Found(words, said, first, last)


def _within(found: _Found, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """What the chunks of one passage, their sentences and their neighbours match, each (n,)."""
    count = len(found.words)
    spread = np.log(1 + count / np.maximum(found.words.sum(0), 1)) / np.log(1 + count)  # (W,)
    own = (found.words * (weights * spread)).sum(1)  # (n,)
    around = np.maximum(np.append(own[1:], 0), np.append(0, own[:-1]))  # (n,)
    said = np.append((found.said * (weights * spread)).sum(1), 0)  # (m + 1,)
    spans = np.column_stack([found.first, found.last + 1]).ravel()
    best = np.maximum.reduceat(said, spans)[::2]  # (n,)
    return own, best, around


def stem(word: str) -> str:
    """Fold case, plurals and common verb endings, crudely."""
    folded = word.lower()
    for ending in ("ing", "ed", "es", "s", "e"):
        if folded.endswith(ending) and len(folded) - len(ending) >= 3:
            return folded[: -len(ending)]
    return folded
