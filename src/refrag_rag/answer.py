"""What the engine gives back: answers with counts and timings."""

from dataclasses import asdict, dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Counts:
    """What an answer took.

    Attributes
    ----------
    positions
        Decoder positions of the prompt, T.
    plain_positions
        Positions with every chunk as text.
    spans, chunks, expanded
        Spans in the prompt, their chunks, and those handed over as text.
    cache_hits, cache_misses
        Spans whose chunk embeddings the store had, or had not.
    new_tokens
        Tokens generated.
    metadata_chunks
        Those of the chunks that begin in a passage's metadata.
    """

    positions: int
    plain_positions: int
    spans: int
    chunks: int
    expanded: int
    cache_hits: int
    cache_misses: int
    new_tokens: int
    metadata_chunks: int = 0


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds, from the call on; of all prompts that were read at once.

    Attributes
    ----------
    lookup_s
        Finding spans, cutting and reading the store.
    encode_s
        Encoding what the store had not.
    assemble_s
        Policy, and laying out the prompt.
    ttft_s
        Time to the first token, all of the above and the prefill included.
    decode_s
        From the first token to the last.
    total_s
        The whole call.
    """

    lookup_s: float
    encode_s: float
    assemble_s: float
    ttft_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True)
class Answer:
    """One generated text.

    Attributes
    ----------
    text
        Without the stop string.
    token_ids
        The new tokens, an end token included.
    finish_reason
        ``stop`` at an end token or stop string, ``length`` at the limit.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    counts: Counts
    timings: Timings

    def metadata(self) -> dict[str, int | float | str]:
        """Everything but the text, flat, for a framework's response metadata."""
        timings = {name: round(value, 6) for name, value in asdict(self.timings).items()}
        return {"finish_reason": self.finish_reason, **asdict(self.counts), **timings}


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; the last one carries the whole `answer`."""

    text: str
    answer: Answer | None = None


@dataclass(frozen=True)
class PrecomputeReport:
    """What `Refrag.precompute` did.

    Attributes
    ----------
    passages, chunks
        Different passages given, and their chunks.
    encoded, hits
        Passages encoded now, and those that the store already had.
    seconds
        Wall time.
    """

    passages: int
    chunks: int
    encoded: int
    hits: int
    seconds: float
