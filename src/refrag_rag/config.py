"""RefragConfig: what travels with a checkpoint."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from refrag_rag.errors import CheckpointError, InputError

FORMAT_VERSION = 1
LONGEST_CHARACTER = 4  # bytes of UTF-8, hence the most tokens one character can take

Chunking = Literal["fixed", "sentence"]
Pooling = Literal["mean", "cls", "concat"]


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
    window
        Decoder tokens that the encoder reads at once. ``window == k`` encodes every chunk on its
        own (REFRAG, section 2); a larger window lets a chunk see its neighbours.
    pooling
        Token states to one chunk embedding: ``mean``; ``cls`` (first state, isolated chunks only);
        ``concat`` (all k states side by side, zeros after the last; one vocabulary only).
    encoder_width
        Hidden size of the encoder.
    decoder_width
        Hidden size of the decoder, D_dec.
    projector_width
        Hidden size of the projector; D_dec if None (the paper).
    shared_vocabulary
        Whether the encoder reads the decoder's token ids.
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

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if self.k < LONGEST_CHARACTER:
            raise InputError(f"k = {self.k}; expected at least 4, so that any character fits.")
        if self.window < self.k:
            raise InputError(f"window = {self.window}; expected at least k = {self.k}.")
        if self.chunking not in ("fixed", "sentence"):
            raise InputError(f"chunking = {self.chunking!r}; expected 'fixed' or 'sentence'.")
        if self.pooling not in ("mean", "cls", "concat"):
            raise InputError(f"pooling = {self.pooling!r}; expected 'mean', 'cls' or 'concat'.")
        if self.pooling == "cls" and self.window != self.k:
            raise InputError("pooling = 'cls' needs isolated chunks: set window = k.")
        if self.pooling == "concat" and not self.shared_vocabulary:
            raise InputError("pooling = 'concat' needs an encoder that shares the vocabulary.")

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
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"refrag_config.json has unexpected fields: {error}.") from error
