"""What the decoder reads of a batch of prompts."""

from typing import NamedTuple

import torch
from torch import Tensor


class DecoderInputs(NamedTuple):
    """A left-padded batch of prompts, ready for the decoder.

    Attributes
    ----------
    inputs_embeds
        *Shape:* (B, T, D_dec)
    attention_mask, position_ids, input_ids
        *Shape:* (B, T), int64; `input_ids` holds the pad id where a vector stands.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    input_ids: Tensor


def for_layers(embeds: Tensor) -> Tensor:
    """Input embeddings as a language model's layers take them while they are trained.

    They have autocast's dtype and a gradient, whatever they are made of: then all layers of a kind
    run the same compiled code. Without gradients nothing changes but the dtype.
    """
    kind = embeds.device.type
    if torch.is_autocast_enabled(kind):
        embeds = embeds.to(torch.get_autocast_dtype(kind))
    if torch.is_grad_enabled() and not embeds.requires_grad:
        embeds = embeds.detach().requires_grad_()
    return embeds
