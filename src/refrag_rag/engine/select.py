"""Which chunks of a prompt become text: the policy chooses among all, within the share p."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.engine.lookup import Found
from refrag_rag.generation.request import Request
from refrag_rag.policies import Choice, Chunks, choose, limit_of
from refrag_rag.prompt.assemble import ParsedPrompt, SpanChunks
from refrag_rag.text.chunking import cut_text


def expand(
    parsed: ParsedPrompt,
    found: Mapping[str, Found],
    request: Request,
    question: NDArray[Any] | None,
) -> list[SpanChunks]:
    """Let the policy choose among all chunks of one prompt, within the request's share p.

    Parameters
    ----------
    question
        *Shape:* (Q, D_enc); its chunk embeddings, if the policy needs them.
    """
    items = [found[span.text] for span in parsed.spans]
    if not items:
        return []
    texts = [cut_text(item.text, item.entry.char_ends.tolist()) for item in items]
    sizes = [len(one) for one in texts]
    mask, scores = Choice(np.zeros(sum(sizes), bool))
    if len(mask) and request.policy.name != "none":  # which looks at nothing
        chunks = Chunks(
            texts=[text for one in texts for text in one],
            passages=np.repeat(np.arange(len(sizes)), sizes),
            embeddings=np.concatenate([item.entry.embeddings for item in items]),
            scores=_common_scores([item.scores for item in items]),
            retrieval=[span.score for span in parsed.spans],
            question=question,
        )
        words = np.concatenate([item.entry.chunk_lengths for item in items]) > 0  # (L,)
        chosen = choose(
            request.policy,
            _only(chunks, words),
            parsed.question,
            limit_of(request.p, int(words.sum())),
        )
        mask[words], scores = chosen
        if scores is not None and not words.all():
            scores = np.full(len(words), np.nan, scores.dtype)
            scores[words] = chosen.scores
    turns = np.cumsum(sizes)[:-1]
    ranked = [None] * len(items) if scores is None else np.split(scores, turns)
    return [
        SpanChunks(item.entry, text, _whole(part, item) | item.as_text, item.hit, rank)
        for item, text, part, rank in zip(items, texts, np.split(mask, turns), ranked, strict=True)
    ]


def _only(chunks: Chunks, chosen: NDArray[np.bool_]) -> Chunks:
    """Some of the chunks; empty ones are no policy's business."""
    if chosen.all():
        return chunks
    return replace(
        chunks,
        texts=list(compress(chunks.texts, chosen)),
        passages=chunks.passages[chosen],
        embeddings=chunks.embeddings[chosen],
        scores={name: one[chosen] for name, one in chunks.scores.items()},
    )


def _whole(expanded: NDArray[np.bool_], item: Found) -> NDArray[np.bool_]:
    """An empty chunk has no words: it is text only where all others of its passage are."""
    empty = item.entry.chunk_lengths == 0
    return np.where(empty, expanded[~empty].all(), expanded) if empty.any() else expanded


def _common_scores(
    passages: Sequence[Mapping[str, NDArray[np.float32]]],
) -> dict[str, NDArray[np.float32]]:
    """Scores that every passage has, over all chunks."""
    names = set.intersection(*(set(scores) for scores in passages))
    return {name: np.concatenate([scores[name] for scores in passages]) for name in names}
