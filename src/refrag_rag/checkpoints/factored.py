"""Decoders with linear layers as two thin ones: made from wide ones, and loaded again.

The decoder's ``config.json`` says which layers, under `RANKS`; transformers alone cannot load it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from refrag_rag.errors import CheckpointError, InputError

RANKS = "refrag_ranks"


def factorise(decoder: PreTrainedModel, name: str, rank: int, directions: Tensor) -> None:
    """Put two thin layers in a linear layer's place: its outputs along a few directions only.

    Parameters
    ----------
    rank
        Numbers between the two.
    directions
        *Shape:* (out, most), orthonormal, the most important first.
    """
    layer: Any = decoder.get_submodule(name)
    kept = directions[:, :rank]
    pair: Any = _pair(layer, rank)
    with torch.no_grad():
        pair[0].weight.copy_(kept.T @ layer.weight.float())
        pair[1].weight.copy_(kept)
        if layer.bias is not None:
            pair[1].bias.copy_(layer.bias)
    decoder.set_submodule(name, pair)
    ranks = getattr(decoder.config, RANKS, {})
    setattr(decoder.config, RANKS, {**ranks, name: rank})


def ranks_of(folder: Path) -> dict[str, int]:
    """Of a decoder's folder, by the names of layers; nothing for an ordinary one."""
    path = folder / "config.json"
    if not path.is_file() or RANKS.encode() not in path.read_bytes():
        return {}
    found = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), RANKS, {})
    return dict(found)


def read_factored(folder: Path, ranks: Mapping[str, int], placement: Any) -> PreTrainedModel:
    """Load a decoder with factored layers.

    Raises
    ------
    CheckpointError
        If tensors are missing, too many or of another shape.
    InputError
        If it is to be quantised or spread over devices.
    """
    if placement.quantization or placement.device_map:
        raise InputError(
            "The decoder has factored layers; expected neither quantization nor device_map. Load "
            "it without, or use the decoder that it was made from."
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    dtype = placement.chosen_dtype
    dtype = config.dtype if dtype == "auto" else dtype
    options = {"dtype": dtype, "attn_implementation": placement.attn_implementation}
    decoder: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    try:
        for name, rank in ranks.items():
            decoder.set_submodule(name, _pair(decoder.get_submodule(name), rank))
        weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            weights |= load_file(path)
        found = decoder.load_state_dict(weights, strict=False)
        decoder.tie_weights()
        tied = set(decoder._tied_weights_keys or ())
        if found.unexpected_keys or set(found.missing_keys) - tied:
            raise ValueError(f"missing {found.missing_keys[:3]}, more {found.unexpected_keys[:3]}")
        decoder.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded ({error}); expected the layers that its {RANKS} names. "
            "Compress it again."
        ) from error
    return decoder.eval()


def _pair(layer: Any, rank: int) -> nn.Sequential:
    """Two untrained layers of a layer's widths."""
    options = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(layer.in_features, rank, bias=False, **options)
    return nn.Sequential(
        first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **options)
    )
