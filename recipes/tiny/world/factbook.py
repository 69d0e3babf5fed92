"""Names and values of real countries (CC0 country profiles) as extra pools for a world.

The profiles enter only as loose words: a country of the training world bears one country's name,
another's capital and a third one's highest mountain, so that no fact can be remembered.
"""

import json
import lzma
import re
from pathlib import Path

FIELDS = {
    "country name (conventional short form)": "country",
    "capital (name)": "city",
    "elevation (highest point)": "peak",
    "national symbol(s)": "animal",
}


def load_factbook(path: str | Path) -> dict[str, list[str]]:
    """Read an xz-compressed JSON-lines file of country questions into word lists.

    Returns
    -------
    dict
        ``country``, ``city``, ``peak``, ``animal``, each a sorted list of short plain names.
    """
    pools: dict[str, set[str]] = {name: set() for name in FIELDS.values()}
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            match = re.match(r"What is the (.*) of |.*: what is the (.*)\?$", record["question"])
            pool = FIELDS.get((match[1] or match[2]) if match else "")
            if pool and (name := _plain(record["answers"][0])):
                pools[pool].add(name)
    pools["capital"] = set(pools["city"])
    return {name: sorted(values) for name, values in pools.items()}


def _plain(value: str) -> str:
    """The leading name of a field (``Tahat 2,908 m`` -> ``Tahat``), or nothing if it is prose."""
    name = re.split(r"[\d(,;:/]", value)[0].strip()
    return (
        name
        if re.fullmatch(r"[^\W\d_][\w'\u2019 .-]{2,24}", name) and len(name.split()) < 4
        else ""
    )
