"""Expand chunks with numbers, dates and identifiers: what one vector cannot carry."""

import re

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import Ranking

# Word characters, without scripts that put no spaces between words: there a number is all digits.
_WORD = (
    r"[^\W\u0e00-\u0e4f\u0e80-\u0ecf\u1000-\u103f\u1780-\u17df\u3040-\u30ff\u3400-\u9fff"
    r"\uac00-\ud7af\uff66-\uff9f\U00020000-\U0003ffff]"
)
_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# Every repetition is bounded, or is followed by nothing that its own characters could match.
_CANDIDATE = re.compile(
    rf"""
      (?<!\w)(?:[A-Za-z][A-Za-z0-9+.-]{{1,19}}://|www\.)[^\s<>"]{{1,2000}}   # URL
    | (?<![\w.+-])[\w.+-]{{1,64}}@[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{1,8}}       # e-mail address
    | (?<!\w){_DAY}\s(?:of\s)?{_MONTH}(?:,?\s\d{{4}})?(?!\w)                   # 5 March 1912
    | (?<!\w){_MONTH}\s(?:{_DAY}(?:,?\s\d{{4}})?|\d{{4}})(?!\w)               # March 5, 1912
    | (?<!\w)[0-9A-Fa-f]{{1,4}}(?::{{1,2}}[0-9A-Fa-f]{{1,4}}){{3,7}}(?!\w)      # MAC, IPv6
    | (?P<word>[#§№$€£¥+\u2212-]?{_WORD}+(?:[-/]{_WORD}+|[.,:]\d{_WORD}*)*[%‰°]?)   # the rest
    """,
    re.VERBOSE,
)
# A word is exact if it has a digit, or an underscore between letters.
_EXACT_WORD = re.compile(r"\d|[^\W_]_+[^\W_]")
_TRAILING = ".,;:!?'\")]}\u2019\u201d\u00bb"  # of the sentence, not of the URL


class ExpandExact(Ranking):
    """Chunks with numbers, dates, identifiers, URLs and e-mail addresses, whatever the question.

    Identifiers are words with a digit (``v1.2.0``, ``COVID-19``, UUIDs, hexadecimal), with an
    underscore (``max_len``), and codes of capitals with hyphens (``ABC-DEF``). Months are known by
    their English names. The chunks with the most characters of such values come first; chunks
    without any are never expanded.
    """

    name = "exact"

    def scores(self, chunks: Chunks, question: str) -> NDArray[np.float64]:  # noqa: ARG002
        """Characters of exact values in each chunk."""
        carried = exact_characters(chunks)
        return np.where(carried > 0, carried, np.nan)


def exact_characters(chunks: Chunks) -> NDArray[np.int64]:
    """How many characters of exact values each chunk holds, *shape* (L,).

    Values are looked for in whole passages, since a chunk may end in the middle of one.
    """
    counts = np.zeros(len(chunks.texts), np.int64)
    for start, stop in chunks.runs():
        texts = chunks.texts[start:stop]
        passage = "".join(texts)
        inside = np.zeros(len(passage) + 1, np.int64)
        for first, last in exact_values(passage):
            inside[first + 1 : last + 1] = 1
        ends = np.cumsum([len(text) for text in texts])
        counts[start:stop] = np.diff(inside.cumsum()[ends], prepend=0)
    return counts


def exact_values(text: str) -> list[tuple[int, int]]:
    """Start and end of every exact value in a text, in characters."""
    found = []
    for match in _CANDIDATE.finditer(text):
        if match["word"] is None:
            found.append((match.start(), match.start() + len(match[0].rstrip(_TRAILING))))
        elif _is_exact(match[0]):
            found.append(match.span())
    return found


def _is_exact(word: str) -> bool:
    if _EXACT_WORD.search(word):
        return True
    return "-" in word[1:] and word.isupper()
