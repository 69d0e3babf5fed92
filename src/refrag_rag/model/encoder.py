"""ChunkEncoder: windows of a passage through an encoder, pooled to one vector a chunk."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model.inputs import for_layers
from refrag_rag.model.query_pooling import QueryPooling, trunk_of
from refrag_rag.model.windows import JOINED, Window, WindowBatch, WindowCutter, room
from refrag_rag.text.chunking import ChunkedPassage

LEARNED = ("linear", "queries")  # poolings with weights of their own
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
        Of ``linear`` and ``queries``.

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
        pooling: LinearPooling | QueryPooling | None = None,
    ) -> None:
        super().__init__()
        if (config.pooling in LEARNED) != (pooling is not None):
            raise CheckpointError(
                f"pooling = {config.pooling!r} with {'a' if pooling else 'no'} learned pooling; "
                f"expected one with {' or '.join(LEARNED)}, and with no other."
            )
        self.model = model
        self.pooling = pooling
        self.tokenizer = tokenizer
        self.config = config
        causal = _is_causal(model)
        self._causal, self._maskless = causal, causal and config.mask in ("own", "causal")
        self._pairwise = config.mask != "own" and not self._maskless
        whole = config.chunking == "passage"  # read as its tokenizer would give it
        first = _first_token(tokenizer) if config.pooling == "cls" and not whole else ()
        marker = _marker_token(tokenizer) if config.pooling == "eos" else -1
        positions = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
        # RoBERTa counts its positions from the padding id on.
        offset = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
        self.limit = positions - offset - len(first)
        self.cutter = WindowCutter(config, tokenizer, limit=self.limit, first=first, marker=marker)
        # in a tuple, lest its weights count twice
        self._trunk = (trunk_of(model),) if config.pooling == "queries" else (model,)
        if config.pooling == "memory":
            self._check_memory()
        if config.encoder_reads_ids and room(config, self.limit) < config.k and not whole:
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
            batch = [windows[p][w] for p, w in places]
            embedded = self(self.cutter.stack(batch)).split([len(one.starts) for one in batch])
            results.update(zip(places, embedded, strict=True))
        width = self.config.chunk_width
        empty = torch.empty(0, width, device=self.model.device, dtype=self.model.dtype)
        return [
            torch.cat([results[p, w] for w in range(len(group))]) if group else empty
            for p, group in enumerate(windows)
        ]

    def forward(self, windows: WindowBatch) -> Tensor:
        """Embed the C chunks of a batch that are read.

        Returns
        -------
        Tensor
            *Shape:* (C, D_enc)
        """
        ids, mask, places, weights = (
            tensor.to(self.model.device, non_blocking=True) for tensor in windows
        )
        found = self._states(ids, self._attention(mask))  # (B, W, encoder_width)
        if isinstance(self.pooling, QueryPooling):
            pooled: Tensor = self.pooling(self.model, found, mask, places, weights)
            return pooled
        states: Any = found.flatten(0, 1)  # (B * W, encoder_width)
        read: Tensor = states.index_select(0, places.flatten()).unflatten(0, places.shape)
        if self.config.pooling not in JOINED:
            weighted = (weights.to(states.dtype)[:, None] @ read)[:, 0]
            return nn.functional.normalize(weighted) if self.config.normalize else weighted
        joined: Tensor = read.masked_fill(weights[..., None] == 0, 0).flatten(1)
        pooled = joined if self.pooling is None else self.pooling(joined)
        return pooled

    def _states(self, ids: Tensor, attention: Tensor | None) -> Tensor:
        """Its last states, *shape* (B, W, encoder_width)."""
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._causal:  # a language model, which would keep keys and values for what comes next
            embeds = for_layers(self.model.get_input_embeddings()(ids))
            inputs = {"inputs_embeds": embeds, "use_cache": False}
        states: Tensor = self._trunk[0](**inputs, attention_mask=attention).last_hidden_state
        return states

    def windows(self, passage: ChunkedPassage) -> Iterator[Window]:
        """Group a passage's chunks into windows, closed at the encoder's own limit too."""
        return self.cutter.cut(passage)

    def _check_memory(self) -> None:
        before, behind = self.cutter.around
        window, chunks = self.config.window, self.config.window // self.config.k
        if len(behind) < chunks or window + len(before) + len(behind) > self.limit:
            raise CheckpointError(
                f"A window of {window} stands between {len(before)} and {len(behind)} tokens of "
                f"the encoder's tokenizer, and the encoder reads {self.limit}; expected {chunks} "
                "or more behind it, and room for all. Save or convert the checkpoint again."
            )

    def _attention(self, mask: Tensor) -> Tensor | None:
        """The mask that the encoder gets: over keys, or over pairs where the config asks for it.

        None where it would change nothing: with padding on the right only, a causal encoder never
        sees it, and attention without a mask is faster.
        """
        if self._maskless:
            return None
        if not self._pairwise:
            return mask.long()  # (B, W)
        pairs = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)  # (B, 1, W, W)
        if self.config.mask == "causal":
            pairs = pairs.tril()
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros_like(pairs, dtype=self.model.dtype).masked_fill(~pairs, lowest)


def build_pooling(config: RefragConfig) -> LinearPooling | QueryPooling | None:
    """A new learned pooling, to be filled or started; nothing where none is learned."""
    if config.pooling == "queries":
        return QueryPooling(config.encoder_width)
    if config.pooling != "linear":
        return None
    return LinearPooling(max(config.sizes), config.encoder_width, config.chunk_width)


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
