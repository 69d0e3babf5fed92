"""Prefill once, take the first token from its logits, go on with the KV cache."""

from collections.abc import Callable, Generator, Sequence

import torch
from transformers import PreTrainedModel

from refrag_rag.errors import PromptTooLongError
from refrag_rag.model import DecoderInputs, RefragModel
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.sampling import Sampler, Sampling

Token = tuple[int, int]  # row of the batch, token id


def decode(
    model: RefragModel, prompts: Sequence[CompressedPrompt], sampling: Sampling
) -> Generator[list[Token], set[int], None]:
    """Generate for a batch, a step at a time.

    Send the set of finished rows back into the generator (``.send(rows)``) to stop them early;
    rows stop by themselves at an end token, at `max_new_tokens` and at the decoder's window.

    Yields
    ------
    list of (int, int)
        Row and new token of every row still running.

    Raises
    ------
    PromptTooLongError
        If a prompt leaves no position for a new token.
    """
    limits = [_limit(prompt.positions, model.max_positions, sampling) for prompt in prompts]
    with torch.inference_mode():
        inputs = model.decoder_inputs(prompts)
    samplers = [Sampler(sampling, prompt.text_ids(), inputs.input_ids.device) for prompt in prompts]
    ends = end_tokens(model)
    running = set(range(len(prompts)))
    step = _steps(model.decoder, inputs)
    next_ids = [model.pad_id] * len(prompts)
    made = 0
    while running:
        logits = step(next_ids)  # (B, vocabulary)
        made += 1
        tokens = [(row, samplers[row].choose(logits[row])) for row in sorted(running)]
        for row, token in tokens:
            next_ids[row] = token
        stopped = yield tokens
        running -= {row for row, token in tokens if token in ends or made >= limits[row]}
        running -= set(stopped or ())


def _steps(decoder: PreTrainedModel, inputs: DecoderInputs) -> Callable[[list[int]], torch.Tensor]:
    """A function that gives the next logits: of the prefill first, then of one more token a row."""
    mask, position = inputs.attention_mask, inputs.position_ids[:, -1:]
    cache = None

    @torch.inference_mode()
    def step(tokens: list[int]) -> torch.Tensor:
        nonlocal mask, position, cache
        if cache is None:
            output = decoder(
                inputs_embeds=inputs.inputs_embeds,
                attention_mask=mask,
                position_ids=inputs.position_ids,
                use_cache=True,
                logits_to_keep=1,
            )
        else:
            mask = torch.cat([mask, mask.new_ones(len(tokens), 1)], dim=1)
            position = position + 1
            output = decoder(
                input_ids=torch.tensor(tokens, device=mask.device)[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
        cache = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    return step


def end_tokens(model: RefragModel) -> frozenset[int]:
    """Ids that end an answer, by the generation config and the tokenizer."""
    config = model.decoder.generation_config
    found = config.eos_token_id if config is not None else None
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in (*ids, model.tokenizer.eos_token_id) if isinstance(i, int))


def _limit(positions: int, window: int, sampling: Sampling) -> int:
    if positions >= window:
        raise PromptTooLongError(
            f"The prompt takes {positions} positions; the decoder reads {window}, the answer "
            "included. Retrieve fewer passages, expand fewer chunks (p), or mark more text as "
            "compressible."
        )
    return min(sampling.max_new_tokens, window - positions)
