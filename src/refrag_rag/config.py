"""RefragConfig: what travels with a checkpoint."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from refrag_rag.errors import CheckpointError, InputError

FORMAT_VERSION = 1
LONGEST_CHARACTER = 4  # bytes of UTF-8, hence the most tokens one character can take

Chunking = Literal["fixed", "sentence", "exact"]
Pooling = Literal["mean", "cls", "concat", "eos"]
Mask = Literal["own", "causal", "bidirectional"]
ProjectorKind = Literal["mlp", "norm_mlp", "norm_mlp_attn", "attn_norm_mlp"]
CHOICES: dict[str, Any] = {
    "chunking": Chunking,
    "pooling": Pooling,
    "mask": Mask,
    "projector": ProjectorKind,
}


@dataclass(frozen=True, kw_only=True)
class RefragConfig:
    """How passages are cut and encoded, and the widths of the parts.

    Attributes
    ----------
    name
        Name of the model, as the adapters report it.
    k
        Most tokens in a chunk, at least 4 so that every character fits into one.
    chunking
        ``fixed``: every k tokens. ``sentence``: at the end of a sentence too, at most k.
        ``exact``: every k tokens, even within a character (foreign checkpoints count so).
    window
        Decoder tokens that the encoder reads at once. ``window == k`` encodes every chunk on its
        own (REFRAG, section 2); a larger window lets a chunk see its neighbours.
    pooling
        Token states to one chunk embedding: ``mean``; ``cls`` (first state, isolated chunks only);
        ``concat`` (all k states side by side, zeros after the last); ``eos`` (the state of one pad
        token for each chunk, put at the end of the window). The last two need an encoder that
        reads the chunks' token ids.
    encoder_width
        Hidden size of the encoder.
    decoder_width
        Hidden size of the decoder, D_dec.
    projector_width
        Hidden size of the projector; D_dec if None (the paper).
    shared_vocabulary
        Whether encoder and decoder give the same ids to the same text.
    chunked_by
        Whose tokenizer cuts the chunks.
    mask
        Which tokens of a window the encoder's tokens see: as the model does by itself, those
        before them, or all.
    overlap
        Tokens of the passage that a window reads before its chunks (and behind them, unless the
        mask is causal) without pooling them.
    projector
        ``mlp``; or with an RMS norm in front, and attention layers behind or before.
    projector_layers
        Number of those attention layers.
    boundary
        Tokens before and behind every run of vectors, by name.
    """

    name: str
    k: int
    encoder_width: int
    decoder_width: int
    chunking: Chunking = "fixed"
    window: int
    pooling: Pooling = "mean"
    projector_width: int | None = None
    shared_vocabulary: bool = False
    chunked_by: Literal["decoder", "encoder"] = "decoder"
    mask: Mask = "own"
    overlap: int = 0
    projector: ProjectorKind = "mlp"
    projector_layers: int = 1
    boundary: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if self.k < LONGEST_CHARACTER:
            raise InputError(f"k = {self.k}; expected at least 4, so that any character fits.")
        if self.window < self.k:
            raise InputError(f"window = {self.window}; expected at least k = {self.k}.")
        for name, kinds in CHOICES.items():
            if getattr(self, name) not in get_args(kinds):
                raise InputError(
                    f"{name} = {getattr(self, name)!r}; expected one of {get_args(kinds)}."
                )
        if self.overlap < 0:
            raise InputError(f"overlap = {self.overlap}; expected at least 0.")
        if self.pooling == "cls" and self.window != self.k:
            raise InputError("pooling = 'cls' needs isolated chunks: set window = k.")
        if not self.encoder_reads_ids and (self.pooling in ("concat", "eos") or self.overlap):
            raise InputError(
                f"pooling = {self.pooling!r} with overlap = {self.overlap} needs an encoder that "
                "shares the vocabulary, or cuts the chunks."
            )
        if self.projector == "attn_norm_mlp" and self.pooling == "concat":
            raise InputError("projector = 'attn_norm_mlp' attends over states, not joined ones.")

    @property
    def encoder_reads_ids(self) -> bool:
        """Whether the encoder reads the chunks' token ids as they are."""
        return self.shared_vocabulary or self.chunked_by == "encoder"

    @property
    def decoder_reads_ids(self) -> bool:
        """Whether the decoder reads the chunks' token ids as they are."""
        return self.shared_vocabulary or self.chunked_by == "decoder"

    @property
    def chunk_width(self) -> int:
        """Width of a chunk embedding, D_enc."""
        return self.encoder_width * (self.k if self.pooling == "concat" else 1)

    def to_json(self) -> str:
        """Serialise, with the version of the layout."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RefragConfig":
        """Read what `to_json` wrote.

        Raises
        ------
        CheckpointError
            If the text is not such a config, or one of a later version.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values.pop("format_version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"refrag_config.json cannot be read ({error!r}); expected a JSON object with "
                "'format_version'. Save the model again."
            ) from error
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"refrag_config.json has format_version {version!r}; this release reads "
                f"{FORMAT_VERSION}. Upgrade refrag-rag."
            )
        try:
            if values.get("boundary"):
                values["boundary"] = tuple(values["boundary"])  # JSON has lists only
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"refrag_config.json has unexpected fields: {error}.") from error
