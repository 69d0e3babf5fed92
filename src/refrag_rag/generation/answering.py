"""From prompts that are laid out to answers: decode, stop, and write down what was read."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from refrag_rag.generation.answer import Answer, Counts, Delta, Timings
from refrag_rag.generation.answer_text import AnswerText
from refrag_rag.generation.decode import Token, decode
from refrag_rag.generation.prompt_cache import PromptCache
from refrag_rag.generation.request import Request, Sampling
from refrag_rag.model import RefragModel
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.text.tool_calls import TOOL_MARKERS


class Backend(Protocol):
    """Decodes elsewhere what was laid out here."""

    @property
    def window(self) -> int:
        """Positions of prompt and answer together."""

    def decode(
        self,
        model: RefragModel,
        prompts: Sequence[CompressedPrompt],
        sampling: Sampling,
        *,
        stopped: Callable[[int], bool],
    ) -> Generator[list[Token], None, None]:
        """Generate for a batch; see `refrag_rag.generation.decode.decode`."""


def answer_rows(
    model: RefragModel,
    prompts: Sequence[CompressedPrompt],
    request: Request,
    prompt_cache: PromptCache,
    timings: Timings,
    backend: Backend | None = None,
) -> Iterator[Delta]:
    """Answer prompts together.

    Parameters
    ----------
    timings
        Of what was done before, right until now.
    backend
        Who decodes; None: the model's own decoder.

    Yields
    ------
    Delta
        New text of some prompt; in the end one with the answer for each, in their order.
    """
    start = time.perf_counter() - timings.before_prefill_s
    ends = end_tokens(model)
    sampling, kept = request.sampling, TOOL_MARKERS if request.tools else ()
    texts = [AnswerText(model.tokenizer, ends, sampling.stop, kept) for _ in prompts]
    reuse = prompt_cache.start(prompts)
    reused = reuse.positions if reuse is not None else 0
    first = None
    steps = (
        decode(model, prompts, sampling, reuse, stopped=lambda row: texts[row].stopped)
        if backend is None
        else backend.decode(model, prompts, sampling, stopped=lambda row: texts[row].stopped)
    )
    with closing(steps):  # a reader may go away before the end
        for tokens in steps:
            first = first or time.perf_counter()
            for row, token in tokens:
                texts[row].add(token)
                if piece := texts[row].fresh():
                    yield Delta(piece)
    for text, prompt in zip(texts, prompts, strict=True):
        rest = text.fresh(final=True)
        now = time.perf_counter()
        first = first or now
        spent = replace(timings, ttft_s=first - start, decode_s=now - first, total_s=now - start)
        yield Delta(rest, _answer(text, prompt, spent, reused))


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


def end_tokens(model: RefragModel) -> frozenset[int]:
    """Ids that end an answer, by the generation config and the tokenizer."""
    config = model.decoder.generation_config
    found = config.eos_token_id if config is not None else None
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in (*ids, model.tokenizer.eos_token_id) if isinstance(i, int))
