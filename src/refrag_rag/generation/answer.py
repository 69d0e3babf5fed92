"""What the engine gives back: answers with counts and timings."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from refrag_rag.prompt import CompressedPrompt, SpanLayout

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
    reused_positions
        Positions of the prompt that an earlier KV cache had.
    expanded_per_span
        How many of each span's chunks were handed over as text, in the order of the prompt.
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
    reused_positions: int = 0
    expanded_per_span: tuple[int, ...] = ()

    @classmethod
    def of(cls, prompt: CompressedPrompt, *, new_tokens: int, reused: int) -> "Counts":
        """What one prompt and its answer took."""
        return cls(
            positions=prompt.positions,
            plain_positions=prompt.plain_positions,
            spans=prompt.spans,
            chunks=prompt.chunks,
            expanded=prompt.expanded,
            cache_hits=prompt.cache_hits,
            cache_misses=prompt.spans - prompt.cache_hits,
            new_tokens=new_tokens,
            metadata_chunks=sum(layout.metadata_chunks for layout in prompt.layouts),
            reused_positions=reused,
            expanded_per_span=tuple(int(layout.expanded.sum()) for layout in prompt.layouts),
        )

    @property
    def positions_saved(self) -> int:
        """Positions of text that the decoder did not have to read."""
        return self.plain_positions - self.positions

    def flat(self) -> dict[str, Any]:
        """All of them, in types that JSON knows."""
        counts = {**asdict(self), "positions_saved": self.positions_saved}
        return {**counts, "expanded_per_span": list(self.expanded_per_span)}


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds, from the call on; of all prompts that were read at once.

    Attributes
    ----------
    lookup_s
        Finding spans, cutting and reading the store.
    encode_s
        Encoding and scoring what the store had not, and the question if the policy needs it.
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
    ttft_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0

    @property
    def before_prefill_s(self) -> float:
        """All that comes before the decoder reads."""
        return self.lookup_s + self.encode_s + self.assemble_s

    def parts(self) -> tuple[tuple[str, float], ...]:
        """Parts of the total with their seconds, one after the other."""
        return (
            ("look-up", self.lookup_s),
            ("encode", self.encode_s),
            ("lay out", self.assemble_s),
            ("prefill", max(0.0, self.ttft_s - self.before_prefill_s)),
            ("decode", self.decode_s),
        )


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
    question
        What the policy was asked.
    layouts
        How each span was read, in the order of the prompt.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    counts: Counts
    timings: Timings
    question: str = field(default="", repr=False)
    layouts: tuple[SpanLayout, ...] = field(default=(), repr=False, compare=False)

    def metadata(self) -> dict[str, Any]:
        """Counts, timings and finish reason, flat, in types that JSON knows."""
        timings = {name: round(value, 6) for name, value in asdict(self.timings).items()}
        return {"finish_reason": self.finish_reason, **self.counts.flat(), **timings}

    def _repr_html_(self) -> str:
        """For Jupyter."""
        from refrag_rag.inspection import fragment, inspect

        return fragment(inspect(self))


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
    passages
        Different passages given.
    chunks
        Of those that were encoded now.
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
