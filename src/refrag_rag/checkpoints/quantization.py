"""Smaller decoders: weights in eight or four bits, by the configurations of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from refrag_rag.errors import InputError, need

INT8 = "int8"


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _int4() -> Any:
    from torchao.quantization import Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int4WeightOnlyConfig(group_size=128))


def _nf4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


# What each needs, whether it runs on CPUs, and its configuration.
QUANTIZATIONS: dict[str, tuple[str, bool, Callable[[], Any]]] = {
    INT8: ("torchao", True, _int8),
    "int4": ("torchao", False, _int4),
    "nf4": ("bitsandbytes", False, _nf4),
}


def quantization_config(name: str, *, on_cpu: bool) -> Any:
    """What transformers is told, to load a decoder's linear layers with fewer bits.

    Raises
    ------
    InputError
        If there is no such quantisation, or it needs a GPU.
    MissingExtraError
        If its package is missing.
    """
    if name not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise InputError(f"quantization = {name!r}; expected one of {known}, or None.")
    module, runs_on_cpus, build = QUANTIZATIONS[name]
    if on_cpu and not runs_on_cpus:
        raise InputError(f"quantization = {name!r} needs a CUDA device; expected 'int8' on a CPU.")
    need("quantization", f"quantization = {name!r}", [module])
    return build()


def need_for(folder: Path) -> None:
    """Check that what a decoder's folder was quantised with can be imported.

    Raises
    ------
    MissingExtraError
        If not.
    """
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    for module in ("torchao", "bitsandbytes"):
        if f'"quant_method": "{module}"' in text:
            need("quantization", f"The quantised decoder in {folder}", [module])


def can_be_written(decoder: PreTrainedModel) -> bool:
    """Whether a decoder's weights can be saved as they are: whole ones, or torchao's int8."""
    if getattr(decoder, "hf_quantizer", None) is None:
        return True
    kind = getattr(decoder.config.quantization_config, "quant_type", None)
    return type(kind).__name__ == "Int8WeightOnlyConfig"
