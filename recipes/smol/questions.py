"""Questions with hard distractors and a retriever's scores: what `learned-query` learns from.

``python -m recipes.smol.questions --questions FILE ... --texts FILE ... --out FILE``

Each question keeps its gold passage and gets others: of the same article, and those that the
embedding model finds near it among all passages of all files. Only questions whose answer stands in
the gold passage are kept. The same files give the same lines.
"""

import argparse
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from refrag_rag.evaluation.retrieval import Retriever

SIZES = (6, 8, 10, 10, 10, 16)  # passages of a question, one drawn
OF_ARTICLE = (0.3, 0.6, 0.9)  # largest share of them from the same article, one drawn
NEAR, TAKEN = 40, 0.6  # so many near passages are looked at, and that share of them taken
LONGEST = 2500  # characters of a passage
PARAGRAPH = (200, 1500)  # characters of a paragraph that becomes a passage
PER_ARTICLE, OTHERS, OTHER_SHARE = 6, 2, 0.03
BLOCK = 512  # questions whose similarities are computed together


@dataclass
class Pool:
    """Passages of all files, each once, and which of them belong to one article."""

    passages: list[tuple[str, str]] = field(default_factory=list)  # title, text
    places: dict[tuple[str, str], int] = field(default_factory=dict)
    articles: dict[str, list[int]] = field(default_factory=dict)

    def add(self, title: str, text: str) -> int:
        """The passage's place."""
        if (title, text) not in self.places:
            self.places[title, text] = len(self.passages)
            self.articles.setdefault(title, []).append(len(self.passages))
            self.passages.append((title, text))
        return self.places[title, text]


@dataclass(frozen=True)
class Asked:
    """A question, its answers, and the place of its gold passage."""

    text: str
    answers: list[str]
    gold: int


def read_questions(files: Sequence[Path], pool: Pool, rng: Random, limit: int) -> list[Asked]:
    """At most `limit` questions of each file; their gold passages go into the pool."""
    asked = []
    for file in files:
        records = list(_records(file))
        rng.shuffle(records)
        usable = (one for one in (_asked(record, pool) for record in records) if one)
        asked += [one for one, _ in zip(usable, range(limit), strict=False)]
    return asked


def _asked(record: dict[str, Any], pool: Pool) -> Asked | None:
    contexts = record["contexts"]
    gold = next((one for one in contexts if one.get("gold")), contexts[0])
    text = gold["text"]
    said = [one for one in record["answers"] if one.strip() and one.lower() in text.lower()]
    if not said or len(text) > LONGEST:
        return None
    said.sort(key=len)  # training teaches the first, and people answer in few words
    return Asked(record["question"], said, pool.add(gold.get("title") or "", text))


def add_paragraphs(files: Sequence[Path], pool: Pool, rng: Random, limit: int) -> None:
    """Paragraphs of the articles that questions are about, and of a few others."""
    known, end = set(pool.articles), len(pool.passages) + limit
    for file in files:
        for record in _records(file):
            own = record["title"] in known
            if len(pool.passages) >= end or not (own or rng.random() < OTHER_SHARE):
                continue
            shortest, longest = PARAGRAPH
            fitting = [p for p in record["text"].split("\n") if shortest < len(p) < longest]
            rng.shuffle(fitting)
            for paragraph in fitting[: PER_ARTICLE if own else OTHERS]:
                pool.add(record["title"], paragraph)


def with_distractors(asked: Sequence[Asked], pool: Pool, rng: Random) -> Iterator[dict[str, Any]]:
    """Records as ``refrag train policy`` and ``refrag eval`` read them."""
    retriever = Retriever([f"{title}\n{text}" if title else text for title, text in pool.passages])
    for start in tqdm(range(0, len(asked), BLOCK), desc="questions", unit="block"):
        block = asked[start : start + BLOCK]
        similar = retriever.similarities([one.text for one in block])
        for one, scores in zip(block, similar, strict=True):
            rows = [one.gold, *_distractors(one.gold, scores, pool, rng)]
            rng.shuffle(rows)
            contexts = [
                {
                    "title": pool.passages[n][0],
                    "text": pool.passages[n][1],
                    "gold": n == one.gold,
                    "score": round(float(scores[n]), 4),
                }
                for n in rows
            ]
            yield {"question": one.text, "answers": one.answers, "contexts": contexts}


def _distractors(gold: int, scores: NDArray[np.float32], pool: Pool, rng: Random) -> list[int]:
    count = rng.choice(SIZES) - 1
    same = [n for n in pool.articles[pool.passages[gold][0]] if n != gold]
    rng.shuffle(same)
    if rng.random() < TAKEN:
        same.sort(key=lambda n: -scores[n])
    chosen = same[: round(count * rng.choice(OF_ARTICLE))]
    for near in np.argsort(-scores, kind="stable")[:NEAR].tolist():
        if len(chosen) < count and near != gold and near not in chosen and rng.random() < TAKEN:
            chosen.append(near)
    return chosen


def _records(file: Path) -> Iterator[dict[str, Any]]:
    opened = lzma.open if file.suffix == ".xz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m recipes.smol.questions", description=__doc__)
    parser.add_argument("--questions", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--limit", type=int, default=6000, help="questions of each file")
    parser.add_argument("--paragraphs", type=int, default=7000, help="passages from texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    rng, pool = Random(options.seed), Pool()
    asked = read_questions(options.questions, pool, rng, options.limit)
    add_paragraphs(options.texts, pool, rng, options.paragraphs)
    with options.out.open("w", encoding="utf-8") as out:
        for record in with_distractors(asked, pool, rng):
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
