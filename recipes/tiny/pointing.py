"""Attention that is shown where answers stand: half the heads of the last layer look there.

A decoder from scratch finds the right one of several passages late, since the loss of a token does
not say where it could have been read. The invented world knows. (Our own; attention was guided by
given alignments before, for translation: Chen et al. 2016, arXiv 1607.01628.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from recipes.tiny.layout import links
from refrag_rag.errors import InputError
from refrag_rag.training.batches import Row
from refrag_rag.training.loss import Objective, Sums, next_token_loss


def pointing_objective(decoder: PreTrainedModel, weight: float) -> Objective:
    """Next-token loss; beside it, unless its weight is 0, that of `Pointing`."""
    return Pointing(decoder, weight) if weight else next_token_loss


class Pointing:
    """Next-token loss, and the cross-entropy of attention against where a token can be read.

    Counted for every token of a value that is to come next, at the position before it: minus the
    log of the attention paid to the value's token in its passage, or to the vector of its chunk,
    averaged over half of the last layer's heads.

    Parameters
    ----------
    decoder
        A Llama. Its last attention layer is listened to from now on.
    weight
        Of the cross-entropy, beside a weight of 1 for the first token of an answer.

    Raises
    ------
    InputError
        If the decoder is no Llama.
    """

    def __init__(self, decoder: PreTrainedModel, weight: float) -> None:
        if not isinstance(decoder, LlamaForCausalLM):
            raise InputError(
                f"pointing = {weight} for a {type(decoder).__name__}; expected a LlamaForCausalLM, "
                "whose attention is known. Use pointing = 0."
            )
        self.weight = weight
        self.width = decoder.model.layers[-1].self_attn.head_dim
        self.heard: dict[str, Any] = {}
        self._listen(decoder.model.layers[-1].self_attn)

    def __call__(self, module: nn.Module, rows: Sequence[Row], everything: Sequence[Row]) -> Sums:
        """Sum the losses of a micro-batch; see `Objective`."""
        sums = next_token_loss(module, rows, everything)
        heard, self.heard = self.heard, {}
        linked = [links(row) for row in rows]
        if not any(linked):
            return sums
        return sums._replace(loss=sums.loss + self.weight * self._loss(linked, heard))

    def _listen(self, attention: nn.Module) -> None:
        # `output_attentions` would give the same, but of all layers and by slow attention only
        def rotation(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
            self.heard["rotation"] = named["position_embeddings"]

        attention.register_forward_pre_hook(rotation, with_kwargs=True)
        for name in ("q_proj", "k_proj"):

            def output(_: nn.Module, __: Any, states: Tensor, name: str = name) -> None:
                self.heard[name] = states

            attention.get_submodule(name).register_forward_hook(output)

    def _loss(self, linked: Sequence[list[tuple[int, int]]], heard: dict[str, Any]) -> Tensor:
        """Sum over the links of a batch, row by row."""
        query, key = (
            heard[name].unflatten(-1, (-1, self.width)).transpose(1, 2)
            for name in ("q_proj", "k_proj")
        )  # (B, heads, T, width), (B, key heads, T, width)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)  # (B, heads, T, width)
        half = -(-query.shape[1] // 2)
        query, key = apply_rotary_pos_emb(query[:, :half], key[:, :half], *heard["rotation"])
        places = torch.arange(query.shape[2], device=query.device)  # (T,)
        losses = []
        for row, pairs in enumerate(linked):
            here, there = torch.tensor(pairs, device=query.device).long().reshape(-1, 2).T  # (N,)
            scores = query[row][:, here].float() @ key[row].float().mT * self.width**-0.5
            hidden = places > here[:, None]  # (N, T)
            logs = scores.masked_fill(hidden, -torch.inf).flatten(0, 1)  # (half * N, T)
            losses.append(cross_entropy(logs, there.repeat(half), reduction="sum"))
        total: Tensor = torch.stack(losses).sum() / half
        return total
