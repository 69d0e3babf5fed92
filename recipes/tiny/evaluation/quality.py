"""Exact match of answers that are written under several policies."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import exact_match, f1, wilson
from refrag_rag.evaluation.questions import Question
from refrag_rag.generation.answer import Answer
from refrag_rag.spans import wrap
from refrag_rag.text.chat_template import Message

ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Arm:
    """A policy and its budget."""

    name: str
    policy: str
    p: float


@dataclass(frozen=True)
class Score:
    """Exact match of one arm with its 95% interval, and means of what the answers took."""

    arm: str
    questions: int
    exact: float
    low: float
    high: float
    f1: float
    positions: float
    plain_positions: float


def measure(
    engine: Refrag, questions: Sequence[Question], arms: Sequence[Arm], *, batch: int = 8
) -> dict[str, list[Answer]]:
    """Answers of every arm, by its name."""
    engine.precompute({p for q in questions for p in q.passages}, progress=True)
    answers: dict[str, list[Answer]] = {arm.name: [] for arm in arms}
    for arm in arms:
        for start in tqdm(range(0, len(questions), batch), desc=arm.name, unit="batch"):
            prompts = [message(question) for question in questions[start : start + batch]]
            answers[arm.name] += engine.generate_batch(
                prompts, policy=arm.policy, p=arm.p, max_new_tokens=ANSWER_TOKENS
            )
    return answers


def message(question: Question) -> list[Message]:
    """One user message: the passages as spans, then the question."""
    passages = "\n\n".join(wrap(passage) for passage in question.passages)
    return [{"role": "user", "content": f"{passages}\n\nQuestion: {question.text}\nAnswer:"}]


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
        )
