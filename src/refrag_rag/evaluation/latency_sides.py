"""What is timed against what: the plain decoder, ours cached and not cached, and bare forwards."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.latency_clock import synchronise
from refrag_rag.model import RefragModel
from refrag_rag.reuse import cache_bytes
from refrag_rag.store import ChunkStore, MemoryStore

Work = Callable[[], dict[str, float]]


def plain(engine: Refrag, prompts: Sequence[str], tokens: int) -> Work:
    """The decoder over the same prompts with every chunk as text."""
    return lambda: _answer(engine, prompts, tokens, policy="all")


def cached(engine: Refrag, prompts: Sequence[str], tokens: int) -> Work:
    """Vectors from the store, no chunk expanded."""
    return lambda: _answer(engine, prompts, tokens, policy="none")


def not_cached(model: RefragModel, prompts: Sequence[str], tokens: int) -> Work:
    """The same with a store that is empty every time."""
    return lambda: _answer(
        Refrag(model, store=_empty()), prompts, tokens, policy="none", misses=True
    )


def bare(model: RefragModel, batch: int, positions: int) -> Work:
    """A forward pass of the decoder over random input embeddings, and nothing else."""
    weight = model.decoder.get_input_embeddings().weight
    shape = (batch, positions, weight.shape[1])
    embeds = torch.randn(shape, dtype=torch.float32).to(weight.device, weight.dtype)

    @torch.inference_mode()
    def work() -> dict[str, float]:
        output = model.decoder(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        output.logits[:, -1].argmax(-1).tolist()  # a token, as ours gives one
        synchronise()
        return {}

    return work


def kv_bytes(engine: Refrag, prompts: Sequence[str], policy: str) -> int:
    """Bytes of the KV cache behind the prefill, added up over its tensors."""
    found: list[int] = []

    def look(_module: Any, _arguments: Any, output: Any) -> None:
        found.append(cache_bytes(output.past_key_values))

    hook = engine.model.decoder.register_forward_hook(look)
    try:
        engine.generate_batch(prompts, max_new_tokens=1, policy=policy, batch_size=len(prompts))
    finally:
        hook.remove()
    return found[0]


def _empty() -> ChunkStore:
    return MemoryStore()


def _answer(
    engine: Refrag, prompts: Sequence[str], tokens: int, *, policy: str, misses: bool = False
) -> dict[str, float]:
    answers = engine.generate_batch(
        prompts, batch_size=len(prompts), policy=policy, max_new_tokens=tokens
    )
    first = answers[0]
    if bool(first.counts.cache_misses) is not misses:
        raise InputError(f"{first.counts}: the store is not in the state that is to be measured.")
    made = max(len(answer.token_ids) for answer in answers)
    timings = first.timings
    values = {
        "ttft": timings.ttft_s,
        "lookup": timings.lookup_s,
        "encode": timings.encode_s,
        "assemble": timings.assemble_s,
        "throughput": sum(len(answer.token_ids) for answer in answers) / timings.total_s,
    }
    if made > 1:
        values["ttit"] = timings.decode_s / (made - 1)
    return values
