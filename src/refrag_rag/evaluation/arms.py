"""Arms: the ways in which one question is read, by the same decoder and in the same prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.questions import Question
from refrag_rag.generation.answer import Answer
from refrag_rag.spans import neutralise, wrap
from refrag_rag.store import ChunkStore, MemoryStore, PassageEntry, passage_key
from refrag_rag.text.chat_template import Message

ANSWER_TOKENS = 24
# LlamaIndex's own question-answering prompt: what most chains send.
CONTEXT = "Context information is below.\n---------------------\n{context}\n---------------------\n"
ASK = (
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {question}\nAnswer: "
)
FULL, CLOSED, VECTORS = "full text", "no context", "all compressed"


@dataclass(frozen=True)
class Arm:
    """One way of reading.

    Attributes
    ----------
    name
        Of the arm.
    policy, p
        Which chunks stay text, and what share of them.
    context
        Whether there are passages at all.
    foreign
        Whether the embeddings are those of another question's passages.
    equal_to
        Name of an arm whose positions this one fills with the best passages as text.
    """

    name: str
    policy: str = "none"
    p: float = 0.0
    context: bool = True
    foreign: bool = False
    equal_to: str | None = None

    @property
    def without_k(self) -> bool:
        """Whether the chunk size plays no part."""
        return self.policy == "all" or not self.context


def build_arms(policies: Sequence[str], shares: Sequence[float]) -> list[Arm]:
    """All arms, each behind those whose positions it needs.

    Parameters
    ----------
    policies
        Names, each measured at each of the shares.
    shares
        Shares of the chunks that stay text.
    """
    arms = [Arm(FULL, "all", 1.0), Arm(CLOSED, context=False), Arm(VECTORS)]
    arms += [Arm(f"{name}, p = {p:g}", name, p) for name in policies for p in shares]
    arms.append(Arm("embeddings of other passages", foreign=True))
    arms.append(_equal(VECTORS, "all compressed"))
    if policies:
        arms += [_equal(f"{policies[0]}, p = {p:g}", f"p = {p:g}") for p in shares]
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


def answer(
    engine: Refrag, arm: Arm, question: Question, *, other: Question, positions: int = 0
) -> Answer:
    """Answer one question by one arm.

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
    messages = prompt(question, context=arm.context)
    if arm.equal_to:
        messages = _best_passages(engine, question, positions)
    return reader.generate(messages, policy=arm.policy, p=arm.p, max_new_tokens=ANSWER_TOKENS)


def prompt(question: Question, *, context: bool = True, marked: bool = True) -> list[Message]:
    """One user message: the passages, as spans unless they are not to be marked; the question."""
    passages = map(wrap, question.passages) if marked else question.passages
    content = CONTEXT.replace("{context}", "\n\n".join(passages)) if context else ""
    return [{"role": "user", "content": content + ASK.replace("{question}", question.text)}]


def fits(engine: Refrag, question: Question) -> bool:
    """Whether the decoder's window holds the full text and an answer; nothing is encoded."""
    return _plain_positions(engine, question) + ANSWER_TOKENS <= engine.context_window


def _equal(name: str, short: str) -> Arm:
    return Arm(f"best passages as text, positions of {short}", "all", 1.0, equal_to=name)


def _best_passages(engine: Refrag, question: Question, positions: int) -> list[Message]:
    """As many passages as the positions hold, best first, the last one cut to fit; unmarked.

    They are printed in the order in which the full text has them.
    """
    kept: dict[int, str] = {}
    for place in question.ranking:
        text = question.passages[place]
        over = _positions_of(engine, question, {**kept, place: text}) - positions
        if over <= 0:
            kept[place] = text
            continue
        ends = _token_ends(engine, text)
        left = len(ends) - over
        while left > 0:
            cut = {**kept, place: text[: ends[left - 1]]}
            over = _positions_of(engine, question, cut) - positions
            if over <= 0:
                kept = cut
                break
            left -= over
        break
    return prompt(_only(question, kept), marked=False)


def _only(question: Question, kept: Mapping[int, str]) -> Question:
    return Question(question.text, (), tuple(kept[place] for place in sorted(kept)))


def _positions_of(engine: Refrag, question: Question, kept: Mapping[int, str]) -> int:
    return _plain_positions(engine, _only(question, kept))


def _plain_positions(engine: Refrag, question: Question) -> int:
    return engine.compress(prompt(question, marked=False)).positions


def _token_ends(engine: Refrag, text: str) -> list[int]:
    """Where each token of a text ends, in characters."""
    read = engine.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in read["offset_mapping"]]


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
