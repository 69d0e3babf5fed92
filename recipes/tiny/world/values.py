"""Values of facts: people, places, numbers and words, drawn at random by type."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from random import Random

from recipes.tiny.world import names

Pools = Mapping[str, Sequence[str]]


def load_words() -> dict[str, list[str]]:
    """Read the word lists: ``name: a b c``, or ``name: a|b c|d`` where entries hold spaces."""
    pools = {}
    for line in read_resource("words.txt"):
        name, _, words = line.partition(":")
        pools[name] = [w.strip() for w in (words.split("|") if "|" in words else words.split())]
    return pools


def read_resource(name: str) -> list[str]:
    """Lines of a data file of this package, without comments and empty lines."""
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


class Values:
    """Draws values. One seed, one sequence.

    Parameters
    ----------
    pools
        Word lists by name (`load_words`), with real country names as ``country`` and
        capitals as ``city`` where a fact book was given.
    held_out
        Draw invented names from the held-out part.
    """

    def __init__(self, pools: Pools, *, held_out: bool) -> None:
        self.pools = pools
        self.held_out = held_out

    def draw(self, kind: str, rng: Random) -> str:
        """One value of a type named in ``templates.txt``."""
        if kind in NUMBERS:
            return NUMBERS[kind](rng)
        if kind == "person":
            return self.fill("{P}", rng)
        if kind == "river":
            return self.fill(rng.choice(("{X} River", "River {X}", "{X}", "{X} Canal")), rng)
        return self.fill(rng.choice(self.pools[kind]), rng)

    def fill(self, pattern: str, rng: Random) -> str:
        """Replace every ``{X}``, ``{P}``, ``{Adj}`` ... of a name pattern."""
        return re.sub(r"\{(\w+)\}", lambda match: self._part(match[1], rng), pattern)

    def _part(self, part: str, rng: Random) -> str:
        if part in ("C", "K"):
            known = self.pools.get("country" if part == "C" else "city")
            return rng.choice(known) if known else self._part("X", rng)
        if part == "P":
            middle = f" {rng.choice('ABCDEFGHJKLMNPRSTW')}." if rng.random() < 0.1 else ""
            return f"{rng.choice(self.pools['first'])}{middle} {self._part('X', rng)}"
        if part == "n":
            return str(rng.choice((rng.randint(2, 99), 100 * rng.randint(1, 90))))
        if part[0] in "Xx":
            made = names.stem(rng, held_out=self.held_out)
            return made if part[0] == "X" else made.lower()
        word = rng.choice(self.pools[part.rstrip("2").lower()])
        return word.capitalize() if part != "animal" else word


def _count(rng: Random) -> str:
    top = rng.choice((99, 999, 9_999, 99_999, 999_999))
    return f"{rng.randint(top // 10, top):,}"


def _measure(unit: str, low: int, high: int) -> Callable[[Random], str]:
    def draw(rng: Random) -> str:
        span = high if rng.random() < 0.5 else min(high, low * 20)
        value = rng.randint(low, span)
        return f"{value:,} {unit}"

    return draw


def _decimal(unit: str, high: int) -> Callable[[Random], str]:
    return lambda rng: f"{rng.randint(1, high)}.{rng.randint(0, 9)} {unit}"


MONEY = ("dollars", "euros", "million dollars", "million euros", "pounds", "francs")
NUMBERS: dict[str, Callable[[Random], str]] = {
    "year": lambda rng: str(rng.randint(1500, 2024)),
    "count": _count,
    "count_small": lambda rng: str(rng.randint(2, 60)),
    "metres": _measure("metres", 12, 8900),
    "km": _measure("km", 20, 9000),
    "sqkm": _measure("square km", 100, 999_999),
    "kg": lambda rng: rng.choice((_measure("kg", 1, 6000), _measure("grams", 20, 900)))(rng),
    "money": lambda rng: f"{rng.randint(2, 990)} {rng.choice(MONEY)}",
    "hours": _measure("hours", 2, 96),
    "years": lambda rng: rng.choice((_measure("years", 2, 120), _decimal("years", 60)))(rng),
    "kmh": _measure("km an hour", 3, 140),
    "million": lambda rng: rng.choice((_decimal("million", 300), _count))(rng),
    "domain": lambda rng: "." + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2)),
}
