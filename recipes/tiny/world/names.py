"""Invented names. A name belongs to training or to the held-out world for ever, by its hash."""

from random import Random
from zlib import crc32

ONSETS = (
    "b c d f g h j k l m n p r s t v w y z b d f k l m n p r s t v "
    "br ch cl dr fl gr kr pl qu sh st th tr"
).split()
NUCLEI = "a a a a e e e e i i i i o o o o u u u ai ea ei ia ie oa ou".split()
CODAS = "l m n r s t n r s ck ld nd ng rk rn st".split()
HELD_OUT_SHARE = 8  # one stem in eight is never seen in training


def is_held_out(stem: str) -> bool:
    """Whether a stem belongs to the held-out world."""
    return crc32(stem.lower().encode()) % HELD_OUT_SHARE == 0


def stem(rng: Random, *, held_out: bool) -> str:
    """Draw one capitalised stem of two or three syllables, such as ``Velmora``."""
    while True:
        name = _syllables(rng).capitalize()
        if 4 <= len(name) <= 10 and is_held_out(name) == held_out:
            return name


def _syllables(rng: Random) -> str:
    parts = []
    for place in range(rng.choice((2, 2, 2, 3, 3))):
        onset = "" if place == 0 and rng.random() < 0.2 else rng.choice(ONSETS)
        coda = rng.choice(CODAS) if rng.random() < 0.35 else ""
        parts.append(onset + rng.choice(NUCLEI) + coda)
    return "".join(parts)
