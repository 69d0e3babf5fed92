"""ChunkEncoder: windows of a passage through an encoder, pooled to one vector a chunk."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model.windows import Window, id_windows, room, text_windows
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.text.tokenization import PlainTokenizer

UNLIMITED = 2**20  # relative positions: no limit of their own


class LinearPooling(nn.Module):
    """A learned linear map of a chunk's token states side by side.

    Parameters
    ----------
    places
        Most states of a chunk; behind a shorter chunk they count as zeros.
    encoder_width
        Width of a state.
    chunk_width
        D_enc, width of a chunk embedding.
    """

    def __init__(self, places: int, encoder_width: int, chunk_width: int) -> None:
        super().__init__()
        self.places = places
        self.map = nn.Linear(places * encoder_width, chunk_width)

    def start(self) -> "LinearPooling":
        """Begin with another rotation for every place, so that order can be read at once."""
        with torch.no_grad():
            for place in self.map.weight.chunk(self.places, dim=1):
                nn.init.orthogonal_(place)
            self.map.bias.zero_()
        return self

    def forward(self, states: Tensor) -> Tensor:
        """Pool, *shape* (chunks, at most places * encoder_width) to (chunks, D_enc)."""
        weight = self.map.weight[:, : states.shape[1]]  # what is behind would meet zeros
        return nn.functional.linear(states, weight, self.map.bias)


class ChunkEncoder(nn.Module):
    """Any Hugging Face encoder, read window by window.

    Parameters
    ----------
    model
        An encoder whose output has ``last_hidden_state``.
    tokenizer
        The encoder's tokenizer; used when the vocabularies differ, and for the first token of
        ``cls`` pooling.
    config
        Gives window, pooling and whether the vocabulary is shared.
    pooling
        The learned map of ``linear`` pooling.

    Raises
    ------
    CheckpointError
        If the parts do not fit together, or the encoder is too short for a chunk.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: RefragConfig,
        pooling: LinearPooling | None = None,
    ) -> None:
        super().__init__()
        if (config.pooling == "linear") != (pooling is not None):
            raise CheckpointError(
                f"pooling = {config.pooling!r} with {'a' if pooling else 'no'} learned map; "
                "expected one with 'linear' pooling, and with no other."
            )
        self.model = model
        self.pooling = pooling
        self.tokenizer = tokenizer
        self.config = config
        by_itself = config.mask == "own" or (config.mask == "causal" and _is_causal(model))
        self._pairwise = not by_itself
        self._first = _first_token(tokenizer) if config.pooling == "cls" else ()
        self._marker = _marker_token(tokenizer) if config.pooling == "eos" else -1
        positions = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
        # RoBERTa counts its positions from the padding id on.
        offset = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
        self.limit = positions - offset - len(self._first)
        if config.encoder_reads_ids and room(config, self.limit) < config.k:
            raise CheckpointError(
                f"The encoder reads {self.limit} tokens; expected room for a chunk of {config.k} "
                "with overlap and markers. Use a smaller k or overlap, or another encoder."
            )

    @torch.inference_mode()
    def encode(
        self,
        passages: Sequence[ChunkedPassage],
        *,
        batch_size: int = 64,
        windows: Sequence[Sequence[Window]] | None = None,
    ) -> list[Tensor]:
        """Embed all chunks of passages; batches are sorted by length.

        Parameters
        ----------
        windows
            What `windows` gives for each passage, if that is at hand.

        Returns
        -------
        list of Tensor
            One (L, D_enc) tensor a passage, in the order given; on the encoder's device.

        Raises
        ------
        InputError
            If one chunk alone is longer than the encoder's window.
        """
        if windows is None:
            windows = [list(self.windows(passage)) for passage in passages]
        flat = [(p, w) for p, group in enumerate(windows) for w in range(len(group))]
        flat.sort(key=lambda place: len(windows[place[0]][place[1]].ids))
        results: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(flat), batch_size):
            places = flat[start : start + batch_size]
            embedded = self([windows[p][w] for p, w in places])
            results.update(zip(places, embedded, strict=True))
        width = self.config.chunk_width
        empty = torch.empty(0, width, device=self.model.device, dtype=self.model.dtype)
        return [
            torch.cat([results[p, w] for w in range(len(group))]) if group else empty
            for p, group in enumerate(windows)
        ]

    def forward(self, windows: Sequence[Window]) -> list[Tensor]:
        """Embed windows, right-padded to one batch.

        Returns
        -------
        list of Tensor
            One (chunks in window, D_enc) tensor a window.
        """
        rows = [torch.tensor([*self._first, *window.ids]) for window in windows]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)  # (B, W)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (B, W)
        states = self.model(input_ids=ids, attention_mask=self._attention(mask)).last_hidden_state
        if self.config.pooling == "cls":
            return list(states[:, :1])
        if self.config.pooling in ("concat", "linear"):
            joined = self._side_by_side(states, windows)  # (chunks, k * encoder_width)
            pooled = joined if self.pooling is None else self.pooling(joined)
            return list(torch.split(pooled, [len(window.shares) for window in windows]))
        return [_mean(row, window) for row, window in zip(states, windows, strict=True)]

    def windows(self, passage: ChunkedPassage) -> Iterator[Window]:
        """Group a passage's chunks into windows, closed at the encoder's own limit too."""
        if self.config.encoder_reads_ids:
            return id_windows(passage, self.config, limit=self.limit, marker=self._marker)
        return text_windows(passage, self.config, self._plain, limit=self.limit)

    @cached_property
    def _plain(self) -> PlainTokenizer:
        """Made on first use: encoders that read the chunks' ids never need it."""
        return PlainTokenizer(self.tokenizer)

    def _attention(self, mask: Tensor) -> Tensor:
        """The mask that the encoder gets: over keys, or over pairs where the config asks for it."""
        if not self._pairwise:
            return mask.long()  # (B, W)
        pairs = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)  # (B, 1, W, W)
        if self.config.mask == "causal":
            pairs = pairs.tril()
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros_like(pairs, dtype=self.model.dtype).masked_fill(~pairs, lowest)

    def _side_by_side(self, states: Tensor, windows: Sequence[Window]) -> Tensor:
        zero = states.shape[0] * states.shape[1]  # index of an extra row of zeros
        places = []
        for row, window in enumerate(windows):
            first = row * states.shape[1]
            for share in window.shares:
                chunk = [first + place for place, _ in share]
                places.append(chunk + [zero] * (self.config.k - len(chunk)))
        flat = nn.functional.pad(states.flatten(0, 1), (0, 0, 0, 1))  # (B * W + 1, encoder_width)
        return flat[torch.tensor(places, device=flat.device)].flatten(1)


def build_pooling(config: RefragConfig) -> LinearPooling | None:
    """A new map for ``linear`` pooling, to be filled or started; nothing for the others."""
    if config.pooling != "linear":
        return None
    return LinearPooling(max(config.sizes), config.encoder_width, config.chunk_width)


def _mean(states: Tensor, window: Window) -> Tensor:
    rows = [row for row, share in enumerate(window.shares) for _ in share]
    places = [place for share in window.shares for place, _ in share]
    values = [weight for share in window.shares for _, weight in share]
    weights = torch.zeros(len(window.shares), states.shape[0], dtype=states.dtype)
    weights[rows, places] = torch.tensor(values, dtype=states.dtype)
    return weights.to(states.device) @ states  # (chunks, encoder_width)


def _first_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int]:
    for id_ in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if isinstance(id_, int):
            return (id_,)
    raise CheckpointError(
        "The encoder's tokenizer has neither a CLS nor a BOS token; 'cls' pooling needs one. "
        "Use 'mean' pooling."
    )


def _is_causal(model: PreTrainedModel) -> bool:
    """Whether it sees only what is before by itself, which costs no mask over pairs."""
    kind = type(model.config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def _marker_token(tokenizer: PreTrainedTokenizerBase) -> int:
    if isinstance(tokenizer.pad_token_id, int):
        return tokenizer.pad_token_id
    raise CheckpointError(
        "The encoder's tokenizer has no pad token, whose states 'eos' pooling reads. "
        "Set one, or use 'mean' pooling."
    )
