"""RefragConfig: what travels with a checkpoint."""

import json
from dataclasses import asdict, dataclass, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from refrag_rag.errors import CheckpointError, InputError

FORMAT_VERSION = 1
LONGEST_CHARACTER = 4  # bytes of UTF-8, hence the most tokens one character can take

Chunking = Literal["fixed", "sentence", "exact", "passage", "even", "levelled"]
Pooling = Literal["mean", "cls", "concat", "eos", "linear", "memory", "last", "queries"]
Mask = Literal["own", "causal", "bidirectional"]
ProjectorKind = Literal["mlp", "norm_mlp", "norm_mlp_attn", "attn_norm_mlp", "linear", "identity"]
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
        ``passage``: a chunk is a whole passage, whatever its length. k, which is then the window
        too, is the most tokens that the encoder reads of it, with those that its tokenizer puts
        around a text; what is behind them goes into no vector.
        ``even``: window // k chunks in every window of tokens, as equal as can be; in a last
        window of fewer tokens than chunks, some are empty.
        ``levelled``: one chunk more than whole k's go into a window, as equal as can be (none more
        where nothing is left), and an empty one behind the passage.
    window
        Decoder tokens that the encoder reads at once. ``window == k`` encodes every chunk on its
        own (REFRAG, section 2); a larger window lets a chunk see its neighbours.
    pooling
        Token states to one chunk embedding: ``mean``; ``cls`` (first state, isolated chunks only);
        ``concat`` (all k states side by side, zeros after the last); ``eos`` (the state of one pad
        token for each chunk, put at the end of the window); ``linear`` (a learned linear map of
        the k states side by side, zeros behind a short chunk). All but the first two need an
        encoder that reads the chunks' token ids. ``memory``: the states of the last window // k
        tokens that the encoder's tokenizer puts behind a text, one for each chunk of the window.
        ``last``: the last state, of a whole passage only. ``queries``: the encoder's last layer
        with the chunks' means as queries, and a learned vector for the empty chunk.
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
        ``mlp``; or with an RMS norm in front, and attention layers behind or before; ``linear``:
        two maps without bias or activation; or ``identity`` for chunk embeddings that are decoder
        inputs already.
    projector_layers
        Number of those attention layers.
    boundary
        Tokens before and behind every run of vectors, by name; an empty name for none.
    chunk_sizes
        Every k that the model was trained on; k alone if None. See `with_k`.
    pooling_width
        With ``linear`` pooling, the width of a chunk embedding; `encoder_width` if None.
    normalize
        Whether chunk embeddings are brought to length 1, as many retrievers' are.
    policy
        Name of the policy that chooses where neither engine nor call names one.
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
    chunk_sizes: tuple[int, ...] | None = None
    pooling_width: int | None = None
    normalize: bool = False
    policy: str = "hybrid"

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        self._check_values()
        self._check_pooling()
        self._check_kinds()

    def _check_values(self) -> None:
        if self.k < LONGEST_CHARACTER:
            raise InputError(f"k = {self.k}; expected at least 4, so that any character fits.")
        if self.window < self.k:
            raise InputError(f"window = {self.window}; expected at least k = {self.k}.")
        for name, kinds in CHOICES.items():
            if getattr(self, name) not in get_args(kinds):
                raise InputError(
                    f"{name} = {getattr(self, name)!r}; expected one of {get_args(kinds)}."
                )
        if self.k not in self.sizes or min(self.sizes) < LONGEST_CHARACTER:
            raise InputError(
                f"k = {self.k} with chunk_sizes = {self.chunk_sizes}; expected k to be one of "
                f"them, each at least {LONGEST_CHARACTER}."
            )
        if self.overlap < 0:
            raise InputError(f"overlap = {self.overlap}; expected at least 0.")

    def _check_pooling(self) -> None:
        if self.pooling == "concat" and len(self.sizes) > 1:
            raise InputError(
                "pooling = 'concat' makes vectors of another width for another k; expected one "
                "chunk size. Use pooling = 'linear'."
            )
        if self.pooling == "cls" and self.window != self.k:
            raise InputError("pooling = 'cls' needs isolated chunks: set window = k.")
        if not self.encoder_reads_ids and (
            self.pooling in ("concat", "eos", "linear") or self.overlap
        ):
            raise InputError(
                f"pooling = {self.pooling!r} with overlap = {self.overlap} needs an encoder that "
                "shares the vocabulary, or cuts the chunks."
            )
        if self.projector == "attn_norm_mlp" and self.pooling in ("concat", "linear"):
            raise InputError("projector = 'attn_norm_mlp' attends over states, not joined ones.")
        if self.pooling_width is not None and (self.pooling != "linear" or self.pooling_width < 1):
            raise InputError(
                f"pooling_width = {self.pooling_width} with pooling = {self.pooling!r}; expected "
                "at least 1, and only with 'linear'."
            )

    def _check_kinds(self) -> None:
        alone = self.window == self.k and len(self.sizes) == 1
        if self.chunking == "passage" and not (alone and self.pooling in ("mean", "cls", "last")):
            raise InputError(
                f"chunking = 'passage' with k = {self.k}, window = {self.window}, chunk_sizes = "
                f"{self.chunk_sizes} and pooling = {self.pooling!r}; expected window = k, no other "
                "chunk size, and 'mean', 'cls' or 'last' pooling."
            )
        if self.pooling == "last" and self.chunking != "passage":
            raise InputError("pooling = 'last' needs whole passages: set chunking = 'passage'.")
        memory = self.pooling == "memory"
        alone = not self.overlap and len(self.sizes) == 1 and self.encoder_reads_ids
        if memory != (self.chunking == "even") or (memory and not alone):
            raise InputError(
                f"chunking = {self.chunking!r} with pooling = {self.pooling!r}; expected 'even' "
                "with 'memory', without overlap, with one chunk size and an encoder that reads "
                "the chunks' token ids; or neither."
            )
        queries = self.pooling == "queries"
        seen = self.mask == "bidirectional" and self.window % self.k == 0
        if queries != (self.chunking == "levelled") or (queries and not (alone and seen)):
            raise InputError(
                f"chunking = {self.chunking!r} with pooling = {self.pooling!r}; expected "
                "'levelled' with 'queries', mask = 'bidirectional', without overlap, with one "
                "chunk size, windows of whole chunks and an encoder that reads the chunks' token "
                "ids; or neither."
            )
        if self.projector == "identity" and self.chunk_width != self.decoder_width:
            raise InputError(
                f"projector = 'identity' from {self.chunk_width} to {self.decoder_width} numbers; "
                "expected the same width. Choose another projector."
            )

    @property
    def markup(self) -> tuple[str, str] | None:
        """What prompts may mark passages with: the boundary, if it has both ends."""
        return self.boundary if self.boundary and all(self.boundary) else None

    @property
    def encoder_reads_ids(self) -> bool:
        """Whether the encoder reads the chunks' token ids as they are."""
        return self.shared_vocabulary or self.chunked_by == "encoder"

    @property
    def decoder_reads_ids(self) -> bool:
        """Whether the decoder reads the chunks' token ids as they are."""
        return self.shared_vocabulary or self.chunked_by == "decoder"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every k that the model was trained on."""
        return self.chunk_sizes or (self.k,)

    @property
    def chunk_width(self) -> int:
        """Width of a chunk embedding, D_enc."""
        if self.pooling == "linear":
            return self.pooling_width or self.encoder_width
        return self.encoder_width * (self.k if self.pooling == "concat" else 1)

    def with_k(self, k: int) -> "RefragConfig":
        """The same model with another of its chunk sizes.

        Windows of one chunk stay windows of one chunk.

        Raises
        ------
        InputError
            If the model was not trained on that size.
        """
        if k not in self.sizes:
            known = " or ".join(map(str, sorted(self.sizes)))
            raise InputError(
                f"k = {k!r}; {self.name} was trained on chunks of {known} tokens. Choose k = "
                f"{known}, or train it on chunks of {k}."
            )
        return replace(self, k=k, window=k if self.window == self.k else self.window)

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
            for name in ("boundary", "chunk_sizes"):  # JSON has lists only
                if values.get(name):
                    values[name] = tuple(values[name])
            config = cls(**values)
        except (TypeError, InputError) as error:
            raise CheckpointError(
                f"refrag_config.json has unexpected fields or values: {error}"
            ) from error
        for name, kind in get_type_hints(cls).items():
            if not _fits(getattr(config, name), kind):
                raise CheckpointError(
                    f"refrag_config.json has {name} = {getattr(config, name)!r}; expected "
                    f"{kind}. Save or download the model again."
                )
        return config


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an attribute's type."""
    kinds = get_args(kind)
    if get_origin(kind) is Literal:
        return value in kinds
    if get_origin(kind) is UnionType:
        return any(_fits(value, one) for one in kinds)
    if get_origin(kind) is tuple:
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value) if isinstance(value, tuple) else ()
        return (
            isinstance(value, tuple)
            and len(value) == len(kinds)
            and all(_fits(one, wanted) for one, wanted in zip(value, kinds, strict=True))
        )
    return type(value) is kind  # True is no number here
