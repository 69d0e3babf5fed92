"""The quality table: one set of questions, read in several ways by the same model."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import exact_match, f1, wilson
from refrag_rag.evaluation.questions import Question
from refrag_rag.generation.answer import Answer
from refrag_rag.spans import neutralise, wrap
from refrag_rag.store import ChunkStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.text.chat_template import Message

ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Arm:
    """One way of reading: which policy, what budget, and what is in the prompt."""

    name: str
    policy: str
    p: float = 0.0
    context: bool = True
    foreign: bool = False


ARMS = (
    Arm("full text", "all", 1.0),
    Arm("no context", "none", context=False),
    Arm("all chunks compressed", "none"),
    Arm("lexical, 20% as text", "lexical", 0.2),
    Arm("random, 20% as text", "random", 0.2),
    Arm("embeddings of other passages", "none", foreign=True),
)
PLAIN_ARMS = tuple(arm for arm in ARMS[:5] if arm.context)


@dataclass(frozen=True)
class Score:
    """Exact match of one arm with its 95% interval, and what it took.

    `span_share` is positions of the spans over their tokens, where every chunk is a vector.
    """

    arm: str
    questions: int
    exact: float
    low: float
    high: float
    f1: float
    positions: float
    plain_positions: float
    span_share: float | None


def measure(
    engine: Refrag, questions: Sequence[Question], arms: Sequence[Arm] = ARMS, *, batch: int = 8
) -> dict[str, list[Answer]]:
    """Answers of every arm, by its name."""
    engine.precompute({p for q in questions for p in q.passages}, progress=True)
    foreign = Refrag(engine.model, store=foreign_store(engine, questions), policy="none")
    answers = {}
    for arm in arms:
        reader = foreign if arm.foreign else engine
        found: list[Answer] = []
        bar = tqdm(range(0, len(questions), batch), desc=arm.name, unit="batch")
        for start in bar:
            prompts = [message(q, context=arm.context) for q in questions[start : start + batch]]
            found += reader.generate_batch(
                prompts, policy=arm.policy, p=arm.p, max_new_tokens=ANSWER_TOKENS
            )
        answers[arm.name] = found
    return answers


def message(question: Question, *, context: bool = True) -> list[Message]:
    """One user message: the passages as spans, then the question."""
    passages = "\n\n".join(wrap(passage) for passage in question.passages) if context else ""
    return [{"role": "user", "content": f"{passages}\n\nQuestion: {question.text}\nAnswer:"}]


def fits(engine: Refrag, question: Question) -> bool:
    """Whether the decoder's window holds the full text and an answer."""
    positions = engine.compress(message(question), policy="all").positions
    return positions + ANSWER_TOKENS <= engine.context_window


def foreign_store(engine: Refrag, questions: Sequence[Question]) -> ChunkStore:
    """A store in which every passage has the chunk embeddings of a passage far from it."""
    passages = list(dict.fromkeys(neutralise(p) for q in questions for p in q.passages))
    keys = [passage_key(passage) for passage in passages]
    entries = [entry for entry in engine.store.get(engine.namespace, keys) if entry]
    near: dict[str, set[str]] = {passage: set() for passage in passages}
    for question in questions:
        together = {neutralise(p) for p in question.passages}
        for passage in together:
            near[passage] |= together
    store = MemoryStore()
    swapped: dict[str, PassageEntry] = {}
    for place, (key, passage, entry) in enumerate(zip(keys, passages, entries, strict=True)):
        other = (place + len(passages) // 2) % len(passages)
        while passages[other] in near[passage] and other != place:
            other = (other + 1) % len(passages)
        rows = np.resize(np.arange(len(entries[other].embeddings)), len(entry.embeddings))
        swapped[key] = PassageEntry(
            embeddings=entries[other].embeddings[rows],
            token_ids=entry.token_ids,
            chunk_lengths=entry.chunk_lengths,
            char_ends=entry.char_ends,
        )
    store.put(engine.namespace, swapped)
    return store


def scores(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]
) -> Iterator[Score]:
    """One score an arm."""
    for arm, found in answers.items():
        pairs = list(zip(questions, found, strict=True))
        right = sum(exact_match(answer.text, q.answers) for q, answer in pairs)
        low, high = wilson(right, len(pairs))
        yield Score(
            arm=arm,
            questions=len(pairs),
            exact=right / max(1, len(pairs)),
            low=low,
            high=high,
            f1=statistics.fmean(f1(answer.text, q.answers) for q, answer in pairs),
            positions=statistics.fmean(a.counts.positions for _, a in pairs),
            plain_positions=statistics.fmean(a.counts.plain_positions for _, a in pairs),
            span_share=_span_share([answer for _, answer in pairs]),
        )


def _span_share(answers: Sequence[Answer]) -> float | None:
    """Positions of the spans over their tokens (every position outside spans is on both sides)."""
    if any(a.counts.expanded for a in answers) or not any(a.counts.chunks for a in answers):
        return None
    vectors = sum(a.counts.chunks for a in answers)
    saved = sum(a.counts.plain_positions - a.counts.positions for a in answers)
    return vectors / (vectors + saved)
