"""From prompts that are laid out to answers: decode, stop, and write down what was read."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from refrag_rag.generation.answer import Answer, Counts, Timings
from refrag_rag.generation.answer_text import AnswerText
from refrag_rag.generation.decode import decode, end_tokens
from refrag_rag.generation.prompt_cache import Reuse
from refrag_rag.generation.request import Sampling
from refrag_rag.model import RefragModel
from refrag_rag.prompt import CompressedPrompt


def answer_rows(
    model: RefragModel,
    prompts: Sequence[CompressedPrompt],
    sampling: Sampling,
    *,
    kept: Sequence[str],
    reuse: Reuse | None,
    clock: Callable[..., Timings],
    start: float,
) -> Iterator[tuple[int, str, Answer | None]]:
    """Answer prompts together.

    Parameters
    ----------
    kept
        Special tokens that stay in the answers' text.
    reuse
        KV cache of an earlier turn.
    clock
        Makes timings from ``ttft_s``, ``decode_s`` and ``total_s``.
    start
        When the question was asked, on `time.perf_counter`'s clock.

    Yields
    ------
    tuple
        A row with its new text, and with the answer once the row is done.
    """
    ends = end_tokens(model)
    texts = [AnswerText(model.tokenizer, ends, sampling.stop, kept) for _ in prompts]
    reused = reuse.positions if reuse is not None else 0
    first = None
    steps = decode(model, prompts, sampling, reuse, stopped=lambda row: texts[row].stopped)
    with closing(steps):  # a reader may go away before the end
        for tokens in steps:
            first = first or time.perf_counter()
            for row, token in tokens:
                texts[row].add(token)
                yield row, texts[row].fresh(), None
    for row, text in enumerate(texts):
        rest = text.fresh(final=True)
        now = time.perf_counter()
        first = first or now
        timings = clock(ttft_s=first - start, decode_s=now - first, total_s=now - start)
        yield row, rest, _answer(text, prompts[row], timings, reused)


def _answer(text: AnswerText, prompt: CompressedPrompt, timings: Timings, reused: int) -> Answer:
    counts = Counts.of(prompt, new_tokens=len(text.token_ids), reused=reused)
    return Answer(
        text.text,
        tuple(text.token_ids),
        text.finish_reason,
        counts,
        timings,
        question=prompt.question,
        layouts=prompt.layouts,
    )
