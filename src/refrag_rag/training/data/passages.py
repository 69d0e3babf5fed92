"""Documents cut into passages and sentences."""

import re
from collections.abc import Iterator
from random import Random

SIZES = (300, 1200)  # characters of a passage; each is drawn
PARAGRAPH = re.compile(r"\n+")
STOP = re.compile(r"[.!?][\"')\]\u201d\u2019]*(?:\s+|$)")
ABBREVIATION = re.compile(
    r"(?:(?<![\w'\u2019])[^\W\d_]|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Jr|Sr|vs|etc|No|ca|cf|Vol))$"
)


def sentences(text: str) -> list[str]:
    """Sentences of a text, stripped; lines end them too."""
    return [part.strip() for part in _parts(text) if part.strip()]


def passages(text: str, rng: Random) -> list[str]:
    """Cut a text at paragraphs, and where one is too long at a sentence's end.

    Each is a literal part of the text, but for the space around it. A sentence longer than a
    passage is cut anywhere.
    """
    found, start, end = [], 0, 0
    size = rng.randint(*SIZES)
    for part in _pieces(text):
        if end > start and end + len(part) - start > size:
            found.append(text[start:end].strip())
            start, size = end, rng.randint(*SIZES)
        end += len(part)
    return [one for one in (*found, text[start:end].strip()) if one]


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs that fit, sentences of others, slices of what is longer than that."""
    longest = SIZES[1]
    for paragraph in _cut(text, [match.end() for match in PARAGRAPH.finditer(text)]):
        for part in [paragraph] if len(paragraph) <= longest else _parts(paragraph):
            yield from (part[at : at + longest] for at in range(0, len(part), longest))


def _parts(text: str) -> list[str]:
    ends = [match.end() for match in PARAGRAPH.finditer(text)]
    for match in STOP.finditer(text):
        if not ABBREVIATION.search(text[max(0, match.start() - 6) : match.start()]) and not (
            text[match.end() : match.end() + 1].islower()
        ):
            ends.append(match.end())
    return _cut(text, sorted(set(ends)))


def _cut(text: str, ends: list[int]) -> list[str]:
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if a < b]
