"""Prefill once, take the first token from its logits, go on with the KV cache."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from refrag_rag.errors import PromptTooLongError
from refrag_rag.generation.kv_cache import new_cache
from refrag_rag.generation.prompt_cache import Reuse
from refrag_rag.generation.request import Sampling
from refrag_rag.generation.sampling import Sampler
from refrag_rag.model import DecoderInputs, RefragModel
from refrag_rag.prompt import CompressedPrompt, TextSegment

Token = tuple[int, int]  # row of the batch, token id


def decode(
    model: RefragModel,
    prompts: Sequence[CompressedPrompt],
    sampling: Sampling,
    reuse: Reuse | None = None,
    *,
    stopped: Callable[[int], bool] = lambda _: False,
) -> Generator[list[Token], None, None]:
    """Generate for a batch, a step at a time.

    A row stops at `max_new_tokens`, at the decoder's window, and when `stopped` says so.

    Parameters
    ----------
    reuse
        Positions that need not be computed again; takes the KV cache in the end. For one prompt.
    stopped
        Asked after each step whether the reader needs no more of a row, as behind an end token.

    Yields
    ------
    list of (int, int)
        Row and new token of every row still running.

    Raises
    ------
    PromptTooLongError
        If a prompt leaves no position for a new token.
    """
    limits = [room(prompt, model.max_positions, sampling) for prompt in prompts]
    with torch.inference_mode():
        inputs = model.decoder_inputs(prompts)
    sampler = Sampler(sampling, len(prompts), model.device)
    running = list(range(len(prompts)))
    steps = Steps(model, inputs, reuse)
    tokens = [model.pad_id] * len(prompts)
    answer: list[int] = []  # of the first row
    made = 0
    sound = False  # whether all layers of the KV cache are equally long
    try:
        while running:
            sound = False
            logits = steps.next(tokens)  # (B, vocabulary)
            sound = True
            made += 1
            tokens = sampler.choose(logits)
            answer.append(tokens[0])
            yield [(row, tokens[row]) for row in running]
            running = [row for row in running if made < limits[row] and not stopped(row)]
    finally:
        if reuse is not None and sound:
            reuse.keep(steps.kept(), answer)
        steps.close()


class Steps:
    """Gives the next logits: of the prefill first, then of one more token a row.

    By the model's graphs as far as they go.
    """

    def __init__(self, model: RefragModel, inputs: DecoderInputs, reuse: Reuse | None) -> None:
        self._decoder, self._inputs = model.decoder, inputs
        self._mask, self._position = inputs.attention_mask, inputs.position_ids[:, -1:]
        self._reused = reuse.positions if reuse is not None else 0
        self._cache: Any = reuse.cache() if reuse is not None else None
        self._started = False
        graphs = model.graphs if self._cache is None else None
        self._graph = graphs.start(inputs) if graphs is not None else None
        if model.kv_cache is not None:
            self._cache = new_cache(model.kv_cache, model.decoder)

    @torch.inference_mode()
    def next(self, tokens: list[int]) -> torch.Tensor:
        """Logits of *shape* (B, vocabulary).

        Parameters
        ----------
        tokens
            The last tokens, one a row; not looked at in the prefill.
        """
        if self._graph is not None:
            if self._graph.room:
                self._started = True
                return self._graph.next(tokens)
            self._cache = self._graph.cache()  # the answer is longer than a recorded shape
            self._grow(len(tokens), self._graph.read)
            self.close()
        if self._started:
            self._grow(len(tokens), 1)
            read: dict[str, Any] = {
                "input_ids": torch.tensor(tokens, device=self._mask.device)[:, None],
                "position_ids": self._position,
            }
        else:
            self._started = True
            read = {
                "inputs_embeds": self._inputs.inputs_embeds[:, self._reused :],
                "position_ids": self._inputs.position_ids[:, self._reused :],
                "logits_to_keep": 1,
            }
        output = self._decoder(
            **read, attention_mask=self._mask, past_key_values=self._cache, use_cache=True
        )
        self._cache = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def kept(self) -> Any:
        """The KV cache so far."""
        return self._cache if self._graph is None else self._graph.cache()

    def close(self) -> None:
        """Let others use the graphs."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _grow(self, rows: int, count: int) -> None:
        """Count more positions a row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(rows, count)], dim=1)
        self._position = self._position + count


def room(prompt: CompressedPrompt, window: int, sampling: Sampling) -> int:
    """How many tokens an answer may have.

    Raises
    ------
    PromptTooLongError
        If the prompt takes the whole window.
    """
    if prompt.positions < window:
        return min(sampling.max_new_tokens, window - prompt.positions)
    texts = [one for one in prompt.segments if isinstance(one, TextSegment)]
    outside = sum(len(one.token_ids) for one in texts if one.role == "prompt")
    if outside >= window:
        advice = (
            f"{outside} of them are text outside passages: shorten that, or mark the passages in "
            "it as compressible (spans.wrap)."
        )
    elif prompt.expanded:
        advice = "Let fewer chunks stay text (p), or retrieve fewer passages."
    else:
        advice = "Retrieve fewer passages."
    raise PromptTooLongError(
        f"The prompt takes {prompt.positions} positions; the decoder reads {window}, the answer "
        f"included. {advice}"
    )
