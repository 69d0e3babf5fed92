"""From a prompt or messages to positions, once and in this order (see docs/concepts.md).

Spans are found per message before the chat template is applied; each becomes one slot. The
rendered prompt is tokenised once; passages are tokenised apart, without control tokens. Slots are
then exchanged for vectors or for the tokens of expanded chunks.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.prompt.prompt import (
    CompressedPrompt,
    Segment,
    SpanLayout,
    TextSegment,
    VectorSegment,
)
from refrag_rag.spans import Span, split_spans
from refrag_rag.store import PassageEntry
from refrag_rag.text.chat_template import (
    Message,
    Prompt,
    Tool,
    check_messages,
    check_tools,
    render,
    texts_in,
)
from refrag_rag.text.question import find_question
from refrag_rag.text.tokenization import PromptTokenizer

Boundary = tuple[TextSegment, TextSegment]
ChunkIds = Callable[[Sequence[str], Sequence[int]], tuple[int, ...]]


@dataclass(frozen=True)
class ParsedPrompt:
    """A tokenised prompt with its spans still to be filled in.

    Attributes
    ----------
    parts
        Runs of token ids, and indices into `spans`.
    spans
        The spans, in order of the messages.
    question
        What the policy is asked.
    """

    parts: tuple[list[int] | int, ...]
    spans: tuple[Span, ...]
    question: str


@dataclass(frozen=True, eq=False)
class SpanChunks:
    """One span ready for assembly.

    Attributes
    ----------
    entry
        Chunk embeddings and token ids.
    texts
        L chunk texts.
    expanded
        *Shape:* (L,), bool; chunks to hand over as text.
    hit
        Whether the store had it.
    scores
        *Shape:* (L,); what the policy ranked the chunks by, if it ranks.
    """

    entry: PassageEntry
    texts: Sequence[str]
    expanded: NDArray[np.bool_]
    hit: bool
    scores: NDArray[Any] | None = None


def parse(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    slots: PromptTokenizer,
    *,
    markup: tuple[str, str] | None = None,
    question: str | None = None,
    tools: Sequence[Tool] | None = None,
) -> ParsedPrompt:
    """Find the spans, apply the chat template, tokenise.

    Parameters
    ----------
    markup
        See `split_spans`.
    question
        What the policy is asked; None: what the last user message asks outside spans.
    tools
        Functions that the model may call, for the chat template.

    Raises
    ------
    InputError
        If the prompt is empty, a message or tool is not of the expected shape, or the chat
        template has no place for what was given.
    """
    functions = check_tools(tools)
    if functions and isinstance(prompt, str):
        raise InputError("Tools came with a text prompt; expected messages. Pass messages.")
    messages = None if isinstance(prompt, str) else check_messages(prompt)
    texts = [m["content"] for m in messages] if messages is not None else [str(prompt)]
    pieces = [split_spans(text, markup) for text in texts]
    cut: list[list[str | Span | list[int]]] = [list(text) for text in pieces]
    if messages is not None:
        cut = [_without_control(m, text, slots) for m, text in zip(messages, pieces, strict=True)]
    slotted = [piece for text in cut for piece in text if not isinstance(piece, str)]
    names = slots.slots(len(slotted), [*texts, *texts_in([messages or [], functions])])
    left = iter(names)
    plain = [
        "".join(piece if isinstance(piece, str) else next(left) for piece in text) for text in cut
    ]
    rendered = plain[0]
    if messages is not None:
        filled = [{**m, "content": text} for m, text in zip(messages, plain, strict=True)]
        rendered = render(tokenizer, filled, functions)
    if not rendered.strip():
        raise InputError("The prompt is empty; expected text or messages with text.")
    parts = slots.encode(rendered, names, special_tokens=messages is None)
    spans = tuple(piece for piece in slotted if isinstance(piece, Span))
    asked = _question(messages, pieces) if question is None else question
    return ParsedPrompt(_fill_control(parts, slotted), spans, asked)


def _without_control(
    message: Message, pieces: Sequence[str | Span], slots: PromptTokenizer
) -> list[str | Span | list[int]]:
    """Cut what would be control tokens out of a message's text.

    What users and documents write is ordinary text. An assistant's own words stay as they were
    generated: a call of a tool can be a control token.
    """
    if message["role"] == "assistant":
        return list(pieces)
    return [
        part
        for piece in pieces
        for part in (slots.cut_control(piece) if isinstance(piece, str) else [piece])
    ]


def _fill_control(
    parts: Sequence[list[int] | int], slotted: Sequence[Span | list[int]]
) -> tuple[list[int] | int, ...]:
    """Put token ids back into their slots; what is left are slots of spans, counted anew."""
    spans = [slot for slot, piece in enumerate(slotted) if isinstance(piece, Span)]
    filled: list[list[int] | int] = []
    ids: list[int] = []
    for part in parts:
        piece = slotted[part] if isinstance(part, int) else part
        if isinstance(part, int) and isinstance(piece, Span):
            filled += [ids, spans.index(part)]
            ids = []
        elif not isinstance(piece, Span):
            ids = [*ids, *piece]
    return (*filled, ids)


def assemble(
    parsed: ParsedPrompt,
    filled: Sequence[SpanChunks],
    tokenizer: PreTrainedTokenizerBase,
    *,
    chunk_ids: ChunkIds,
    boundary: Boundary | None = None,
) -> CompressedPrompt:
    """Exchange slots for vectors and expanded chunks.

    Parameters
    ----------
    filled
        What belongs to each of the spans.
    chunk_ids
        Neighbouring chunks, as texts and as ids of the chunking tokenizer, to the decoder's ids.
    boundary
        What stands before and behind every run of vectors.
    """
    segments: list[Segment] = []
    layouts: list[SpanLayout] = []
    for part in parsed.parts:
        if isinstance(part, int):
            layouts.append(_layout(parsed.spans[part], filled[part]))
            for segment in _span_segments(filled[part], chunk_ids):
                if boundary is not None and isinstance(segment, VectorSegment):
                    segments += [one for one in (boundary[0], segment, boundary[1]) if len(one)]
                else:
                    segments.append(segment)
        elif part:
            text = partial(tokenizer.decode, part, skip_special_tokens=False)
            segments.append(TextSegment(tuple(part), text))
    return CompressedPrompt(tuple(segments), tuple(layouts), parsed.question)


def _layout(span: Span, filled: SpanChunks) -> SpanLayout:
    return SpanLayout(
        span.text,
        filled.entry.char_ends,
        filled.expanded,
        filled.hit,
        span.score,
        filled.scores,
        span.metadata,
    )


def _span_segments(span: SpanChunks, chunk_ids: ChunkIds) -> Iterator[Segment]:
    """Runs of neighbouring chunks that are all vectors or all text."""
    lengths = span.entry.chunk_lengths.tolist()
    tokens = list(itertools.accumulate(lengths, initial=0))  # where each chunk begins, in tokens
    for first, last in _runs(span.expanded):
        texts = span.texts[first:last]
        ids = span.entry.token_ids[tokens[first] : tokens[last]]
        if span.expanded[first]:
            yield TextSegment(chunk_ids(texts, ids.tolist()), "".join(texts), "expanded")
        else:
            plain = partial(_count, chunk_ids, texts, ids)
            yield VectorSegment(span.entry.embeddings[first:last], texts, plain)


def _runs(expanded: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First chunk, and the one behind the last, of chunks that are all vectors or all text."""
    if not len(expanded):
        return []
    turns = (np.flatnonzero(expanded[1:] != expanded[:-1]) + 1).tolist()
    return list(itertools.pairwise([0, *turns, len(expanded)]))


def _count(chunk_ids: ChunkIds, texts: Sequence[str], ids: NDArray[np.int32]) -> int:
    return len(chunk_ids(texts, ids.tolist()))


def _question(messages: Sequence[Message] | None, pieces: Sequence[Sequence[str | Span]]) -> str:
    """What is asked in the last user message outside spans (of a completion: in all of it)."""
    chosen = -1
    if messages is not None:
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        chosen = users[-1] if users else -1
    return find_question("\n".join(piece for piece in pieces[chosen] if isinstance(piece, str)))
