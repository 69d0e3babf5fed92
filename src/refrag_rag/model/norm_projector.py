"""Projectors with a norm in front and, optionally, attention between the vectors of a run."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding

from refrag_rag.config import ProjectorKind


class NormProjector(nn.Module):
    """RMS norm, then a two-layer MLP; attention layers before or behind it.

    The kinds of LCLM (arXiv 2606.09659).

    The names of the parameters are those of LCLM's checkpoints.

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
        """Project.

        Parameters
        ----------
        embeddings
            *Shape:* (V, D_enc)
        runs
            How many of the V stand together in the prompt, in order; vectors attend within a run.
            Default: all V together.

        Returns
        -------
        Tensor
            *Shape:* (V, D_dec)
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
