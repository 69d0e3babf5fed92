"""What the decoder reads of a batch of prompts."""

from typing import NamedTuple

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
