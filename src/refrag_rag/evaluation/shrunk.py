"""A decoder before and after it was made smaller: bytes, time, perplexity and right answers."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.arms import ANSWER_TOKENS
from refrag_rag.evaluation.metrics import exact_match
from refrag_rag.evaluation.prompts import prompt
from refrag_rag.evaluation.questions import Question

RUINED = 1.5  # times the perplexity of the first candidate, or more
TIMED = 5  # questions that a choice is timed on
Measured = dict[str, float]


def measure(engine: Refrag, questions: Sequence[Question], *, what: str) -> Measured:
    """Bytes of the decoder; perplexity of the questions' first passages; exact match; TTFT.

    Returns
    -------
    dict
        ``megabytes``, ``perplexity``, ``exact`` (share), ``ttft_ms`` (median).
    """
    engine.precompute([p for question in questions for p in question.passages])
    answers = [
        engine.generate(prompt(question), max_new_tokens=ANSWER_TOKENS)
        for question in tqdm(questions, desc=what, unit="question")
    ]
    right = [exact_match(a.text, q.answers) for a, q in zip(answers, questions, strict=True)]
    return {
        "megabytes": stored_bytes(engine.model.decoder) / 1e6,
        "perplexity": perplexity(engine, [question.passages[0] for question in questions]),
        "exact": statistics.fmean(right),
        "ttft_ms": 1000 * statistics.median(answer.timings.ttft_s for answer in answers),
    }


@torch.inference_mode()
def perplexity(engine: Refrag, texts: Sequence[str]) -> float:
    """Of texts, each read by itself."""
    model, total, count = engine.model, 0.0, 0
    for text in texts:
        ids = model.tokenizer(text, return_tensors="pt").input_ids[:, : model.max_positions]
        if ids.shape[1] > 1:
            logits = model.decoder(input_ids=ids.to(model.device), use_cache=False).logits[0, :-1]
            total += float(cross_entropy(logits.float(), ids[0, 1:].to(logits.device)))
            count += 1
    return float(torch.tensor(total / max(1, count)).exp())


def stored_bytes(decoder: torch.nn.Module) -> int:
    """Bytes of a decoder's weights, those of quantised ones as they are kept."""
    total = 0
    for weight in decoder.parameters():
        parts = getattr(weight, "tensor_data_names", None)
        kept = [getattr(weight, name) for name in parts] if parts else [weight]
        total += sum(one.nbytes for one in kept)
    return total


def choose(
    candidates: Mapping[str, Callable[[], Refrag]],
    questions: Sequence[Question],
    *,
    latency_ms: float | None,
    megabytes: float | None,
    healed: bool,
) -> Iterator[tuple[str, Refrag, Measured]]:
    """Measure candidates, the mildest first, until one meets the targets on this machine.

    Parameters
    ----------
    healed
        Whether the decoder is to be healed; if not, it must not be `RUINED`.

    Yields
    ------
    (str, Refrag, dict)
        The candidate's name, itself, and what was measured; the last one meets the targets.

    Raises
    ------
    InputError
        If none does, after all have been yielded.
    """
    most = None if healed else math.inf
    for name, load in candidates.items():
        engine = load()
        found = measure(engine, questions[:TIMED], what=name)
        yield name, engine, found
        fits = (
            (most is None or found["perplexity"] < most)
            and (latency_ms is None or found["ttft_ms"] <= latency_ms)
            and (megabytes is None or found["megabytes"] <= megabytes)
        )
        if fits:
            return
        most = RUINED * found["perplexity"] if most == math.inf else most
    raise InputError(
        f"None of {', '.join(candidates)} meets latency = {latency_ms} ms and memory = "
        f"{megabytes} MB here and still says what it said. Take a smaller decoder, or heal one "
        "(--heal)."
    )


def row(name: str, found: Mapping[str, Any]) -> str:
    """A line of the table."""
    return (
        f"| {name} | {found['megabytes']:.0f} MB | {found['ttft_ms']:.0f} ms "
        f"| {found['perplexity']:.2f} | {found['exact']:.1%} |"
    )


HEAD = (
    "| decoder | weights | first token | perplexity | exact match |\n"
    "|---|---|---|---|---|"
)  # fmt: skip
