"""RefragModel: encoder, projector and decoder, composed. It knows nothing of stores and spans."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model.encoder import ChunkEncoder
from refrag_rag.model.fingerprint import State, digest_weights, weights_state
from refrag_rag.model.graphs import Graphs
from refrag_rag.model.inputs import DecoderInputs
from refrag_rag.model.projector import AnyProjector
from refrag_rag.policies.base import Policy
from refrag_rag.prompt import VECTOR, CompressedPrompt, TextSegment
from refrag_rag.text.chunking import ChunkedPassage, Chunker
from refrag_rag.text.tokenization import PlainTokenizer, backend, description, token_id


class RefragModel(nn.Module):
    """Chunk encoder, projector and causal decoder.

    Parameters
    ----------
    config
        How the parts fit together.
    encoder, projector, decoder
        Built parts.
    tokenizer
        The decoder's tokenizer, which also cuts the chunks.

    Attributes
    ----------
    policies
        Learned policies that belong to this model, by name.
    graphs
        Recorded shapes by which the decoder runs, where they fit.
    kv_cache
        How the decoder's KV cache is kept in fewer bits, see `refrag_rag.generation.kv_cache`.

    Raises
    ------
    CheckpointError
        If a width of a part is not the config's.
    """

    def __init__(
        self,
        *,
        config: RefragConfig,
        encoder: ChunkEncoder,
        projector: AnyProjector,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        _check_parts(config, encoder, projector, decoder)
        self.config = config
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.policies: dict[str, Policy] = {}
        self.graphs: Graphs | None = None
        self.kv_cache: str | None = None
        self._fingerprint: tuple[tuple[RefragConfig, State], str] | None = None
        self._plain = PlainTokenizer(tokenizer)
        foreign = config.chunked_by == "encoder"
        cutter = PlainTokenizer(encoder.tokenizer) if foreign else self._plain
        self.chunker = Chunker(cutter, config)
        self.boundary = _boundary(config.boundary, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the decoder's input is expected."""
        device: torch.device = self.decoder.get_input_embeddings().weight.device
        return device

    @property
    def max_positions(self) -> int:
        """The decoder's window."""
        return int(self.decoder.config.get_text_config().max_position_embeddings)

    @property
    def pad_id(self) -> int:
        """The id that fills places without a token."""
        for id_ in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(id_, int):
                return id_
        return 0

    def encode(self, passages: Sequence[ChunkedPassage], *, batch_size: int = 64) -> list[Tensor]:
        """Embed the chunks of passages, see `ChunkEncoder.encode`."""
        return self.encoder.encode(passages, batch_size=batch_size)

    def embed(
        self,
        input_ids: Tensor,
        vector_mask: Tensor,
        embeddings: Tensor,
        places: Tensor | None = None,
    ) -> Tensor:
        """The decoder's input: embeddings of tokens, with projected vectors among them.

        Parameters
        ----------
        input_ids
            *Shape:* (B, T)
        vector_mask
            *Shape:* (B, T), bool, True at V places.
        embeddings
            *Shape:* (V, D_enc), in reading order.
        places
            *Shape:* (V,); the mask's places among all B * T, if they are known: finding them on a
            GPU waits for it.

        Returns
        -------
        Tensor
            *Shape:* (B, T, D_dec)
        """
        tokens: Tensor = self.decoder.get_input_embeddings()(input_ids)
        if not len(embeddings):
            return tokens
        parameter = next(self.projector.parameters(), tokens)
        runs = _runs(vector_mask) if self.projector.needs_runs else None
        moved = embeddings.to(parameter.device).to(parameter.dtype)  # as few bytes as can be
        vectors = self.projector(moved, runs)
        if places is None:
            places = vector_mask.flatten().nonzero()[:, 0].to(tokens.device)
        mixed = tokens.flatten(0, 1).index_copy(0, places, vectors.to(tokens))
        return mixed.view_as(tokens)

    def forward(
        self,
        input_ids: Tensor,
        vector_mask: Tensor,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of mixed sequences (right-padded or unpadded).

        Returns
        -------
        Tensor
            *Shape:* (B, T, vocabulary)
        """
        embeds = self.embed(input_ids, vector_mask, embeddings)
        logits: Tensor = self.decoder(
            inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
        ).logits
        return logits

    def decoder_inputs(self, prompts: Sequence[CompressedPrompt]) -> DecoderInputs:
        """Left-pad prompts to one batch and embed them."""
        length = max(prompt.positions for prompt in prompts)
        ids = np.full((len(prompts), length), self.pad_id)  # (B, T)
        vectors = np.zeros((len(prompts), length), bool)  # (B, T)
        mask = np.zeros((len(prompts), length), np.int64)  # (B, T)
        for row, prompt in enumerate(prompts):
            gap = length - prompt.positions
            vectors[row, gap:] = prompt.ids == VECTOR
            ids[row, gap:] = np.where(vectors[row, gap:], self.pad_id, prompt.ids)
            mask[row, gap:] = 1
        input_ids = torch.from_numpy(ids).to(self.device)  # (B, T)
        attention_mask = torch.from_numpy(mask).to(self.device)  # (B, T)
        runs = [run for prompt in prompts for run in prompt.embeddings()]
        joined = np.concatenate(runs) if runs else np.empty((0, self.config.chunk_width), "f4")
        vectors_in = torch.from_numpy(joined)  # (V, D_enc)
        embeds = self.embed(input_ids, torch.from_numpy(vectors), vectors_in)
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # (B, T)
        return DecoderInputs(embeds, attention_mask, positions, input_ids)

    def chunk_ids(self, texts: Sequence[str], token_ids: Sequence[int]) -> tuple[int, ...]:
        """What the decoder reads for neighbouring chunks as text.

        Parameters
        ----------
        texts
            The chunks.
        token_ids
            Their ids in the chunking tokenizer; used if that is the decoder's.
        """
        if self.config.decoder_reads_ids:
            return tuple(token_ids)
        return tuple(self._plain.encode("".join(texts))[0])

    @property
    def fingerprint(self) -> str:
        """Names what chunk embeddings depend on: encoder weights, tokenizers, chunking, pooling.

        It is made anew when weights have changed, see `weights_state`.
        """
        state = (self.config, weights_state(self.encoder))
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, self._make_fingerprint())
        return self._fingerprint[1]

    def _make_fingerprint(self) -> str:
        names = ("k", "chunking", "window", "pooling", "shared_vocabulary", "chunked_by", "mask")
        settings = [getattr(self.config, name) for name in (*names, "overlap")]
        settings += ["normalize"] * self.config.normalize
        weights = self.encoder.model.state_dict()
        if self.encoder.pooling is not None:
            weights |= self.encoder.pooling.state_dict(prefix="pooling.")
        texts = [description(one) for one in (self.tokenizer, self.encoder.tokenizer)]
        return digest_weights(weights, repr((*settings, self.encoder.limit)), *texts, length=32)

    def save_pretrained(
        self, folder: str | Path, *, base: str | Path | None = None, **options: Any
    ) -> None:
        """Write the checkpoint folder, beside and renamed into place.

        With a `base`, write a delta checkpoint, which holds only what was trained: see
        `refrag_rag.checkpoints.save_delta` for the options.
        """
        from refrag_rag.checkpoints import save, save_delta

        if base is None:
            save(self, Path(folder), **options)
        else:
            save_delta(self, Path(folder), base=base, **options)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "RefragModel":
        """Load a checkpoint by folder, hub id or the name of an embedded model.

        See `refrag_rag.checkpoints.load` for the options.
        """
        from refrag_rag.checkpoints import load

        return load(name_or_path, **options)

    @classmethod
    def compose(
        cls, encoder: str | Path | int, decoder: str | Path, **options: Any
    ) -> "RefragModel":
        """Put any encoder and any decoder together, with an untrained projector.

        See `refrag_rag.checkpoints.compose` for the options.
        """
        from refrag_rag.checkpoints import compose

        return compose(encoder, decoder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the checkpoint; see `refrag_rag.checkpoints.push_to_hub` for the options."""
        from refrag_rag.checkpoints import push_to_hub

        return push_to_hub(self, repo_id, **options)


def _runs(vector_mask: Tensor) -> list[int]:
    """Lengths of the runs of vectors, row by row."""
    padded = nn.functional.pad(vector_mask.int(), (1, 1))  # (B, T + 2)
    steps = padded.diff(dim=1)  # (B, T + 1)
    starts, ends = (steps == 1).nonzero()[:, 1], (steps == -1).nonzero()[:, 1]
    return [int(length) for length in ends - starts]


def _boundary(
    names: tuple[str, str] | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[TextSegment, TextSegment] | None:
    if names is None:
        return None
    first, last = (
        TextSegment((token_id(backend(tokenizer), name),) if name else (), name, "boundary")
        for name in names
    )
    return first, last


def _check_parts(
    config: RefragConfig,
    encoder: ChunkEncoder,
    projector: AnyProjector,
    decoder: PreTrainedModel,
) -> None:
    if getattr(decoder.config.get_text_config(), "hidden_size_per_layer_input", None):
        raise CheckpointError(
            f"{type(decoder).__name__} looks token ids up again in every layer, where a vector has "
            "none; expected a decoder that reads input embeddings alone. Choose another decoder."
        )
    input_width = decoder.get_input_embeddings().weight.shape[1]
    for part, found, expected in (
        ("encoder width", encoder.model.config.hidden_size, config.encoder_width),
        ("projector input", projector.widths[0], config.chunk_width),
        ("projector output", projector.widths[1], config.decoder_width),
        ("decoder width", input_width, config.decoder_width),
    ):
        if found != expected:
            raise CheckpointError(
                f"{part} is {found}, the config says {expected}. "
                "The parts do not belong together: save the model again as a whole."
            )
