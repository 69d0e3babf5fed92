"""Pooling inside an encoder's last layer: a query for every group of tokens (arXiv 2510.20535)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from refrag_rag.errors import CheckpointError


class QueryPooling(nn.Module):
    """Chunk embeddings as ARC-Encoder makes them.

    Before the last layer a chunk's states are averaged. In it these means are the queries, at
    positions of their own, and all states of the window keys and values; there is no norm behind
    it. An empty chunk, which stands behind a passage, gets a learned vector.

    Parameters
    ----------
    width
        D_enc.

    Attributes
    ----------
    ending
        *Shape:* (D_enc,), that vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ending = nn.Parameter(torch.zeros(width))

    def forward(
        self, encoder: Any, states: Tensor, mask: Tensor, places: Tensor, weights: Tensor
    ) -> Tensor:
        """Pool the C chunks of B windows, all of which are read.

        Parameters
        ----------
        encoder
            Whose last layer it is.
        states
            *Shape:* (B, W, D_enc), before that layer.
        mask
            *Shape:* (B, W), bool; False in the padding.
        places, weights
            *Shape:* (C, P); see `WindowBatch`.

        Returns
        -------
        Tensor
            *Shape:* (C, D_enc)
        """
        found = self.ending.expand(len(places), -1).to(states.dtype).clone()  # (C, D_enc)
        full = (weights > 0).any(1)
        places, weights = places[full], weights[full].to(states.dtype)
        if not len(places):
            return found
        read = states.flatten(0, 1)[places]  # (Q, P, D_enc)
        means = (weights[:, None] @ read)[:, 0]  # (Q, D_enc)
        rows = places[:, 0] // states.shape[1]  # (Q,), whose window
        turns = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
        queries = states.new_zeros(len(states), int(turns.max()) + 1, states.shape[2])
        queries[rows, turns] = means  # (B, M, D_enc)
        found[full] = _attend(encoder, queries, states, mask)[rows, turns]
        return found


def trunk_of(encoder: PreTrainedModel) -> PreTrainedModel:
    """An encoder without its last layer and its last norm; the weights are the same.

    Raises
    ------
    CheckpointError
        If it is no Llama, or has one layer alone.
    """
    if not isinstance(encoder, LlamaModel) or len(encoder.layers) < 2:
        raise CheckpointError(
            f"pooling = 'queries' with a {type(encoder).__name__}; expected a LlamaModel of two "
            "layers or more."
        )
    trunk = copy.copy(encoder)
    layers = nn.ModuleList(list(encoder.layers)[:-1])
    trunk._modules = {**encoder._modules, "layers": layers, "norm": nn.Identity()}
    return trunk


def _attend(encoder: Any, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """The last layer, *shape* (B, M, D_enc) to the same."""
    layer, attention = encoder.layers[-1], encoder.layers[-1].self_attn
    size = attention.head_dim

    def heads(projected: Any) -> Any:
        return projected.unflatten(-1, (-1, size)).transpose(1, 2)  # (B, heads, length, size)

    asked, known = layer.input_layernorm(queries), layer.input_layernorm(states)
    query = _turned(encoder, heads(attention.q_proj(asked)))
    key = _turned(encoder, heads(attention.k_proj(known)))
    value = heads(attention.v_proj(known))
    repeated = query.shape[1] // key.shape[1]
    mixed = nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(repeated, 1),
        value.repeat_interleave(repeated, 1),
        attn_mask=mask[:, None, None],
    )
    queries = queries + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    attended: Tensor = queries + layer.mlp(layer.post_attention_layernorm(queries))
    return attended


def _turned(encoder: Any, heads: Any) -> Any:
    """With rotary positions 0, 1, ..."""
    places = torch.arange(heads.shape[2], device=heads.device)[None]
    cos, sin = encoder.rotary_emb(heads, places)
    return apply_rotary_pos_emb(heads, heads, cos, sin)[0]
