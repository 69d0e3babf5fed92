"""Passages shortened to the chunks that a policy would expand: for LLMs that take only text."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.policies import Policy, limit_of
from refrag_rag.prompt import SpanLayout
from refrag_rag.spans import neutralise, wrap

Output = Literal["spans", "text"]
"""What a postprocessor gives an LLM: the whole passage in a span, or its chosen chunks as text."""
Unchosen = Literal["keep", "drop"]
"""A passage of which no chunk was chosen: keep it with ``…`` as its text, or leave it out."""

ELLIPSIS = "…"
WORD = 32  # characters; a longer "word" is a URL, or a script without spaces
EXTRACTION = ("output", "p", "unchosen", "policy")  # what `check_extraction` takes
_FALLBACK = "retrieval"
_WORD, _LAST_WORD = re.compile(r"\S+"), re.compile(r"\S+\Z")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extract:
    """A shortened passage.

    Attributes
    ----------
    text
        The chosen chunks in their order, with ``…`` where something is left out; only ``…`` if no
        chunk was chosen.
    chunks, kept
        The passage's chunks, and those that were chosen.
    """

    text: str
    chunks: int
    kept: int


def check_extraction(
    engine: Refrag | None,
    *,
    output: str = "spans",
    p: float | None = None,
    unchosen: str = "keep",
    policy: str | Policy | None = None,
) -> None:
    """Check the settings of an adapter.

    Raises
    ------
    InputError
        If a value is unknown, or text is wanted without an engine or with nothing in it.
    """
    if output not in ("spans", "text"):
        raise InputError(f"output = {output!r}; expected 'spans' or 'text'.")
    if unchosen not in ("keep", "drop"):
        raise InputError(f"unchosen = {unchosen!r}; expected 'keep' or 'drop'.")
    if p is not None:
        limit_of(p, 0)
    if output == "text" and p == 0:
        raise InputError("p = 0 leaves no text; expected a fraction above 0.")
    if output == "text" and engine is None:
        raise missing_engine()
    if engine is not None:
        engine.get_policy(policy)


def missing_engine() -> InputError:
    """The error for text output without an engine."""
    return InputError(
        "output = 'text' came without an engine; expected one, since a policy chooses among "
        "chunks. Give the engine (Refrag.load); a copy in another process needs its own."
    )


def extract(
    engine: Refrag,
    passages: Sequence[str],
    question: str,
    *,
    p: float | None = None,
    policy: str | Policy | None = None,
    scores: Sequence[float | None] | None = None,
) -> list[Extract]:
    """Shorten the passages of one retrieval to the chunks that the policy would expand.

    The share counts chunks, over all passages together. A word that a chosen chunk begins or ends
    in the middle of is completed, which adds less than a word at either end of a run. Markers in
    passages come out neutralised.

    Parameters
    ----------
    engine
        Cuts passages, looks them up (what its store has not is encoded and kept) and has the
        policies.
    passages
        Texts; one without any word in it comes back as it is.
    question
        What the policy is asked. If it chooses nothing at all, as `lexical` does when no
        passage shares a word with the question, `retrieval` chooses in its place.
    p
        Largest fraction of the chunks to keep; None: the engine's p.
    policy
        None: the engine's; ``hybrid`` if that is ``none``, which chooses no text.
    scores
        Retrieval scores, for policies that look at them.

    Raises
    ------
    InputError
        If an argument cannot be used.
    """
    share = engine.p if p is None else p
    if policy is None and engine.policy.name == "none":
        policy = "hybrid"
    check_extraction(engine, output="text", p=share)
    known = scores or [None] * len(passages)
    texts = [neutralise(text) for text in passages]
    marked = [wrap(text, score=score) for text, score in zip(passages, known, strict=True)]
    if not any(text.strip() for text in texts):
        return [Extract(text, 0, 0) for text in texts]
    if engine.on_miss == "text":  # the engine would read what is missing as text, beyond that share
        engine.precompute(texts)
        if engine.store.read_only:  # which takes nothing
            engine = Refrag(engine.model, store=engine.store, policy=engine.policy)
    for chosen in (policy, _FALLBACK):
        prompt = engine.compress("\n".join(marked), question=question, policy=chosen, p=share)
        if prompt.expanded:
            break
        logger.info("The policy chose no chunk of %d.", prompt.chunks)
    layouts = iter(prompt.layouts)
    return [_shorten(next(layouts)) if text.strip() else Extract(text, 0, 0) for text in texts]


def _shorten(layout: SpanLayout) -> Extract:
    text, end, pieces = layout.text, 0, []
    for start, stop in _runs(layout):
        if text[end:start].strip():
            pieces.append(ELLIPSIS)
        pieces.append(text[start:stop].strip())
        end = stop
    if text[end:].strip():
        pieces.append(ELLIPSIS)
    return Extract(" ".join(pieces), len(layout), int(layout.expanded.sum()))


def _runs(layout: SpanLayout) -> list[tuple[int, int]]:
    """Stretches of chosen chunks, in characters, with their words completed."""
    runs: list[tuple[int, int]] = []
    for (start, stop), chosen in zip(layout.places(), layout.expanded, strict=True):
        if not chosen or not layout.text[start:stop].strip():
            continue
        first, last = _word_around(layout.text, start)[0], _word_around(layout.text, stop)[1]
        if runs and not layout.text[runs[-1][1] : first].strip():
            runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
        else:
            runs.append((first, last))
    return runs


def _word_around(text: str, place: int) -> tuple[int, int]:
    """Start and end of the word that is cut at `place`; twice `place` if none is, or a long one."""
    before = _LAST_WORD.search(text, max(0, place - WORD), place)
    after = _WORD.match(text, place, place + WORD)
    if not before or not after or max(len(before[0]), len(after[0])) >= WORD:
        return place, place
    return before.start(), after.end()
