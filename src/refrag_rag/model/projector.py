"""Projectors: chunk embeddings to the decoder's input width."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding

from refrag_rag.config import ProjectorKind, RefragConfig
from refrag_rag.errors import CheckpointError


class Projector(nn.Module):
    """Two-layer MLP (REFRAG, section 2, where the hidden size is the output size).

    Parameters
    ----------
    chunk_width
        D_enc, width of a chunk embedding.
    decoder_width
        D_dec, width of the decoder's input.
    hidden_width
        Size of the hidden layer; D_dec if not given. A concatenation of k token states is wide
        while D_dec of a small decoder is not: D_dec hidden units would be its bottleneck.
    """

    needs_runs = False

    def __init__(
        self, chunk_width: int, decoder_width: int, hidden_width: int | None = None
    ) -> None:
        super().__init__()
        hidden_width = hidden_width or decoder_width
        self.hidden = nn.Linear(chunk_width, hidden_width)
        self.output = nn.Linear(hidden_width, decoder_width)
        self.activation = nn.GELU()

    @property
    def widths(self) -> tuple[int, int]:
        """D_enc and D_dec."""
        return self.hidden.in_features, self.output.out_features

    def forward(self, embeddings: Tensor, _runs: list[int] | None = None) -> Tensor:
        """Project (V, D_enc) to (V, D_dec), every vector by itself."""
        projected: Tensor = self.output(self.activation(self.hidden(embeddings)))
        return projected


class NormProjector(nn.Module):
    """RMS norm, then a two-layer MLP; attention between the vectors of a run before or behind it.

    Kinds and names of parameters are those of LCLM (arXiv 2606.09659).

    Parameters
    ----------
    chunk_width
        D_enc, width of a chunk embedding.
    decoder_width
        D_dec, width of the decoder's input.
    kind
        Where the attention layers stand, if anywhere.
    layers
        Number of attention layers.
    attention
        Config of the model whose layers these are: the decoder's behind the MLP, the encoder's
        before it.
    """

    def __init__(
        self,
        chunk_width: int,
        decoder_width: int,
        *,
        kind: ProjectorKind = "norm_mlp",
        layers: int = 1,
        attention: PretrainedConfig | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.RMSNorm(chunk_width, eps=1e-6)
        self.fc1 = nn.Linear(chunk_width, decoder_width)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(decoder_width, decoder_width)
        count = layers if kind != "norm_mlp" else 0
        self.attention_layers = nn.ModuleList(RunAttention(attention, i) for i in range(count))

    @property
    def needs_runs(self) -> bool:
        """Whether `forward` must know which vectors stand together."""
        return len(self.attention_layers) > 0

    @property
    def widths(self) -> tuple[int, int]:
        """D_enc and D_dec."""
        return self.fc1.in_features, self.fc2.out_features

    def forward(self, embeddings: Tensor, runs: list[int] | None = None) -> Tensor:
        """Project (V, D_enc) to (V, D_dec).

        Parameters
        ----------
        runs
            How many of the V stand together in the prompt, in order; vectors attend within a run.
            Default: all V together.
        """
        if self.kind == "attn_norm_mlp":
            embeddings = self._attend(embeddings, runs)
        projected: Tensor = self.fc2(self.activation(self.fc1(self.norm(embeddings))))
        return self._attend(projected, runs) if self.kind == "norm_mlp_attn" else projected

    def _attend(self, states: Tensor, runs: list[int] | None) -> Tensor:
        parts = []
        for part in torch.split(states, runs or [len(states)]):
            run = part[None]  # (1, run, width)
            for layer in self.attention_layers:
                run = layer(run)
            parts.append(run[0])
        return torch.cat(parts) if parts else states


class LinearProjector(nn.Module):
    """Two linear maps without bias or activation, through fewer or more hidden units.

    Parameters
    ----------
    chunk_width, decoder_width, hidden_width
        As for `Projector`.
    """

    needs_runs = False

    def __init__(self, chunk_width: int, decoder_width: int, hidden_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(chunk_width, hidden_width, bias=False)
        self.output = nn.Linear(hidden_width, decoder_width, bias=False)
        self.widths = (chunk_width, decoder_width)

    def forward(self, embeddings: Tensor, _runs: list[int] | None = None) -> Tensor:
        """Project (V, D_enc) to (V, D_dec), every vector by itself."""
        projected: Tensor = self.output(self.hidden(embeddings))
        return projected


class IdentityProjector(nn.Module):
    """Hands on chunk embeddings that are decoder inputs already.

    Parameters
    ----------
    width
        D_enc and D_dec.
    """

    needs_runs = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (width, width)

    def forward(self, embeddings: Tensor, _runs: list[int] | None = None) -> Tensor:
        """The same (V, D_dec)."""
        return embeddings


AnyProjector = Projector | NormProjector | LinearProjector | IdentityProjector


class RunAttention(nn.Module):
    """One Qwen3 layer in which every vector of a run sees all others."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.decoder_layer = Qwen3DecoderLayer(config, layer_idx=layer_idx)
        self.rotary_emb = Qwen3RotaryEmbedding(config)

    def forward(self, states: Tensor) -> Tensor:
        """*Shape:* (1, run, width), before and after."""
        length = states.shape[1]
        positions = torch.arange(length, device=states.device)[None]  # (1, run)
        # An explicit mask of zeros: without one, the layer would take itself for causal.
        everywhere = states.new_zeros(1, 1, length, length)
        attended = self.decoder_layer(
            hidden_states=states,
            attention_mask=everywhere,
            position_ids=positions,
            position_embeddings=self.rotary_emb(states, positions),
        )
        return attended if isinstance(attended, Tensor) else attended[0]


def build_projector(
    config: RefragConfig, *, encoder: PretrainedConfig, decoder: PretrainedConfig
) -> AnyProjector:
    """A new projector of the kind that a config names.

    Raises
    ------
    CheckpointError
        If its attention layers cannot be built from the model that they belong to.
    """
    widths = config.chunk_width, config.decoder_width
    if config.projector == "identity":
        return IdentityProjector(config.decoder_width)
    if config.projector == "linear":
        return LinearProjector(*widths, config.projector_width or config.decoder_width)
    if config.projector == "mlp":
        return Projector(*widths, config.projector_width)
    attention = encoder if config.projector == "attn_norm_mlp" else decoder.get_text_config()
    if config.projector != "norm_mlp" and attention.model_type != "qwen3":
        raise CheckpointError(
            f"projector = {config.projector!r} has Qwen3 layers; the model they belong to is "
            f"{attention.model_type!r}. Choose another projector."
        )
    return NormProjector(
        *widths, kind=config.projector, layers=config.projector_layers, attention=attention
    )
