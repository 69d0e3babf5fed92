"""Arms: the ways in which one question is read, by the same decoder and in the same prompt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.budgets import best_passages, share_that_fits, shortened
from refrag_rag.evaluation.prompts import prompt
from refrag_rag.evaluation.questions import Question
from refrag_rag.generation.answer import Answer, Timings
from refrag_rag.generation.answering import answer_rows
from refrag_rag.generation.request import build_request
from refrag_rag.spans import neutralise
from refrag_rag.store import ChunkStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.text.chat_template import Message

ANSWER_TOKENS = 24
FULL, CLOSED, VECTORS = "full text", "no context", "all compressed"
Form = Literal["spans", "passages", "extracts"]
"""Passages as spans; the best passages as text; or all of them shortened to chosen chunks."""


@dataclass(frozen=True)
class Arm:
    """One way of reading.

    Attributes
    ----------
    name
        Of the arm.
    policy, p
        Which chunks stay text, and what share of them.
    form
        What stands in the prompt.
    context
        Whether there are passages at all.
    foreign
        Whether the embeddings are those of another question's passages.
    equal_to
        Name of an arm that has as many positions as this one may take.
    positions
        How many positions the prompt may take; in place of `p`.
    """

    name: str
    policy: str = "none"
    p: float = 0.0
    form: Form = "spans"
    context: bool = True
    foreign: bool = False
    equal_to: str | None = None
    positions: int | None = None

    @property
    def without_k(self) -> bool:
        """Whether the chunk size plays no part."""
        whole = self.policy == "all" or not self.context
        return whole and self.equal_to is None


def build_arms(
    policies: Sequence[str], shares: Sequence[float], positions: Sequence[int] = ()
) -> list[Arm]:
    """All arms, each behind those whose positions it needs.

    Parameters
    ----------
    policies
        Names, each measured at each of the shares, and as chooser of text at each budget.
    shares
        Shares of the chunks that stay text.
    positions
        Budgets of decoder positions, at which every method is measured.
    """
    arms = [Arm(FULL, "all", 1.0), Arm(CLOSED, context=False), Arm(VECTORS)]
    arms += [Arm(f"{name}, p = {p:g}", name, p) for name in policies for p in shares]
    arms.append(Arm("embeddings of other passages", foreign=True))
    arms.append(_equal(VECTORS, "all compressed"))
    if policies:
        arms += [_equal(f"{policies[0]}, p = {p:g}", f"p = {p:g}") for p in shares]
    for count in positions:
        arms.append(Arm(_best(f"{count} positions"), "all", 1.0, form="passages", positions=count))
        for name in policies:
            at = f"{name}, {count} positions"
            arms.append(Arm(at, name, positions=count))
            arms.append(Arm(f"text chosen by {at}", name, form="extracts", positions=count))
    return arms


def choose_arms(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """Those that are named, with those that they need; all if none is named.

    Raises
    ------
    InputError
        If there is no arm of a name.
    """
    known = {arm.name: arm for arm in arms}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"No arm {unknown[0]!r}; expected some of: {'; '.join(known)}.")
    wanted = set(names) | {known[name].equal_to for name in names}
    return [arm for arm in arms if not names or arm.name in wanted]


@dataclass(frozen=True)
class Reading:
    """One question as an arm reads it: through which engine, in which prompt, with which policy."""

    engine: Refrag
    messages: list[Message]
    policy: str
    p: float


def read(
    engine: Refrag, arm: Arm, question: Question, *, other: Question, positions: int = 0
) -> Reading:
    """How an arm reads one question.

    Parameters
    ----------
    other
        Another question, whose passages give the foreign embeddings.
    positions
        What an arm of equal positions may take.
    """
    reader = engine
    if arm.foreign:
        reader = Refrag(engine.model, store=foreign_store(engine, question, other))
    policy, p, room = arm.policy, arm.p, arm.positions or positions
    messages = prompt(question, context=arm.context)
    if arm.form == "passages":
        messages = best_passages(engine, question, room)
    elif arm.form == "extracts":
        messages = shortened(engine, question, policy, room)
        policy = "all"
    elif arm.positions:
        p = share_that_fits(engine, messages, policy, room)
    return Reading(reader, messages, policy, p)


def answer(readings: Sequence[Reading]) -> list[Answer]:
    """Answer questions, several at once; the time to the first token is then that of all."""
    if len(readings) == 1:
        (one,) = readings
        asked = {"policy": one.policy, "p": one.p, "max_new_tokens": ANSWER_TOKENS}
        return [one.engine.generate(one.messages, **asked)]
    began = time.perf_counter()
    prompts = [one.engine.compress(one.messages, policy=one.policy, p=one.p) for one in readings]
    engine = readings[0].engine
    request = build_request(engine.get_policy("none"), 0.0, {"max_new_tokens": ANSWER_TOKENS})
    spent = Timings(lookup_s=0.0, encode_s=0.0, assemble_s=time.perf_counter() - began)
    deltas = answer_rows(engine.model, prompts, request, engine.prompt_cache, spent)
    return [delta.answer for delta in deltas if delta.answer is not None]


def _equal(name: str, short: str) -> Arm:
    return Arm(_best(f"positions of {short}"), "all", 1.0, form="passages", equal_to=name)


def _best(budget: str) -> str:
    return f"best passages as text, {budget}"


def foreign_store(engine: Refrag, question: Question, other: Question) -> ChunkStore:
    """A store in which each passage has the chunk embeddings of one of another question's."""
    store = MemoryStore()
    swapped: dict[str, PassageEntry] = {}
    keys = [[passage_key(neutralise(p)) for p in q.passages] for q in (question, other)]
    own, theirs = (engine.store.get(engine.namespace, one) for one in keys)
    usable = [entry for entry in theirs if entry is not None and len(entry.embeddings)]
    for place, (key, entry) in enumerate(zip(keys[0], own, strict=True)):
        if entry is not None and usable:
            source = usable[place % len(usable)].embeddings
            rows = np.resize(np.arange(len(source)), len(entry.embeddings))
            swapped[key] = PassageEntry(
                embeddings=source[rows],
                token_ids=entry.token_ids,
                chunk_lengths=entry.chunk_lengths,
                char_ends=entry.char_ends,
            )
    store.put(engine.namespace, swapped)
    return store
