"""``decoder_adapter/``: a LoRA adapter of the decoder in peft's layout, beside the decoder.

``decoder/`` stays the original, bit for bit; loading with ``adapter=False`` leaves the adapter
out.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from refrag_rag.errors import CheckpointError

ADAPTER = "decoder_adapter"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before every name in peft's files


def attach(decoder: PreTrainedModel, **settings: Any) -> None:
    """Put a new LoRA adapter into a decoder; `settings` are those of peft's `LoraConfig`.

    Raises
    ------
    CheckpointError
        If peft is missing, or does not know the architecture.
    """
    peft = _peft()
    try:
        config = peft.LoraConfig(**settings)
        peft.inject_adapter_in_model(config, decoder)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"No LoRA adapter fits {type(decoder).__name__} ({error}); train without one."
        ) from error
    decoder.refrag_adapter = config


def has_adapter(decoder: PreTrainedModel) -> bool:
    """Whether a decoder carries an adapter."""
    return getattr(decoder, "refrag_adapter", None) is not None


def multiply_merged(decoder: PreTrainedModel) -> None:
    """Let the layers of a plain adapter multiply by weight + B A, made anew in every call.

    For batches of many positions this is less work for a GPU than two thin products beside each
    wide one. Values are the same up to rounding.
    """
    if not has_adapter(decoder) or not _is_plain(decoder.refrag_adapter):
        return
    for module in decoder.modules():
        if isinstance(getattr(module, "base_layer", None), nn.Linear):
            # a class, not a method of each: compiled code is made once for modules of one class
            kind: Any = type(module)
            module.__class__ = _merging(kind)


def _is_plain(config: Any) -> bool:
    special = config.lora_dropout or getattr(config, "use_dora", False)
    return not special and config.bias == "none"


@cache
def _merging(kind: Any) -> Any:
    """A class of peft's layers, with another forward."""
    return type(f"Merging{kind.__name__}", (kind,), {"forward": _multiply})


def _multiply(module: Any, states: Tensor) -> Tensor:
    first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
    base = module.base_layer
    weight = base.weight + module.scaling["default"] * (second @ first)
    return nn.functional.linear(states, weight, base.bias)


def split(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A decoder's weights with an adapter: the original's, and the adapter's in peft's names."""
    adapter = {n: t for n, t in weights.items() if ".lora_" in n}
    original = {n.replace(".base_layer.", "."): t for n, t in weights.items() if n not in adapter}
    return original, {PREFIX + n.replace(".default.", "."): t for n, t in adapter.items()}


def write_adapter(decoder: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Write an adapter as peft does."""
    place = folder / ADAPTER
    place.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, place / WEIGHTS)
    decoder.refrag_adapter.save_pretrained(str(place))


def read_adapter(decoder: PreTrainedModel, folder: Path) -> None:
    """Put the adapter of a checkpoint folder into its decoder; nothing if there is none."""
    place = folder / ADAPTER
    if not place.is_dir():
        return
    peft = _peft()
    try:
        config = peft.LoraConfig.from_pretrained(str(place))
        peft.inject_adapter_in_model(config, decoder)
        found = peft.set_peft_model_state_dict(decoder, load_file(place / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{place} cannot be loaded ({error}). Download it again.") from error
    if found.unexpected_keys:
        raise CheckpointError(f"{place} does not fit the decoder: {found.unexpected_keys[:5]}.")
    decoder.refrag_adapter = config


def put_back(decoder: PreTrainedModel, adapter: Mapping[str, Tensor]) -> None:
    """Put factors, as `factors` gives them, beside a decoder's weights as an adapter again.

    Raises
    ------
    CheckpointError
        If they do not fit.
    """
    names = list(_pairs(decoder, adapter))
    ranks = {len(factor) for factor in adapter.values()}
    if len(ranks) != 1:
        raise CheckpointError(f"The adapter has factors of ranks {ranks}; expected one rank.")
    (rank,) = ranks
    attach(decoder, r=rank, lora_alpha=rank, target_modules=names, task_type="CAUSAL_LM")
    for name in names:
        module: Any = decoder.get_submodule(name)
        module.lora_A["default"].weight.data.copy_(adapter[f"{name}.A"])
        module.lora_B["default"].weight.data.copy_(adapter[f"{name}.B"].T)


def factors(decoder: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A decoder's adapter as plain factors, and its original weights.

    Returns
    -------
    tuple
        ``adapter.MODULE.A``, *shape* (rank, in), and ``adapter.MODULE.B``, *shape* (rank, out),
        for weight = original + B^T A, scaling included; and the original weights by name.

    Raises
    ------
    CheckpointError
        If the adapter is more than such factors.
    """
    if not has_adapter(decoder):
        return {}, dict(decoder.state_dict())
    found: dict[str, Tensor] = {}
    for name, module in decoder.named_modules():
        if hasattr(module, "lora_A") and not module.fan_in_fan_out:
            first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[f"adapter.{name}.A"] = first.detach()
            found[f"adapter.{name}.B"] = module.scaling["default"] * second.detach().T
    original, adapter = split(dict(decoder.state_dict()))
    config = decoder.refrag_adapter
    if len(adapter) != len(found) or getattr(config, "use_dora", False) or config.bias != "none":
        raise CheckpointError(
            "The decoder's adapter is more than two factors a matrix; expected plain LoRA without "
            "biases, on nn.Linear. Save the model whole: save_pretrained(folder)."
        )
    return found, original


def merge(decoder: PreTrainedModel, adapter: Mapping[str, Tensor]) -> None:
    """Add factors, as `factors` gives them, to a decoder's weights.

    Raises
    ------
    CheckpointError
        If they do not fit.
    """
    for place, first, second in _pairs(decoder, adapter).values():
        place.data += (second.T @ first).to(place)


def _pairs(
    decoder: PreTrainedModel, adapter: Mapping[str, Tensor]
) -> dict[str, tuple[nn.Parameter, Tensor, Tensor]]:
    """By module: its weight, *shape* (out, in), and its factors A and B."""
    places, found = dict(decoder.named_parameters()), {}
    for name in sorted({name[:-2] for name in adapter}):
        place = places.get(f"{name}.weight")
        first, second = adapter.get(f"{name}.A"), adapter.get(f"{name}.B")
        if place is None or first is None or second is None:
            raise CheckpointError(f"The adapter's {name} has no place in the decoder.")
        product = (second.shape[1], first.shape[1])
        if product != place.shape or len(first) != len(second):
            raise CheckpointError(
                f"The adapter's {name} is {product}, the decoder's {tuple(place.shape)}; expected "
                "the base that it was trained on."
            )
        found[name] = (place, first, second)
    return found


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise CheckpointError(
            "A LoRA adapter needs peft: pip install 'refrag-rag[train]', or load with "
            "adapter=False."
        ) from error
    return peft
