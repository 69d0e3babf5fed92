"""``decoder_adapter/``: a LoRA adapter of the decoder in peft's layout, beside the decoder.

``decoder/`` stays the original, bit for bit; loading with ``adapter=False`` leaves the adapter
out.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
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


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise CheckpointError(
            "A LoRA adapter needs peft: pip install 'refrag-rag[train]', or load with "
            "adapter=False."
        ) from error
    return peft
