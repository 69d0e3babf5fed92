"""Decoders, tokenizers and whole models from ordinary Hugging Face folders."""

import logging
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from refrag_rag.checkpoints.factored import ranks_of, read_factored
from refrag_rag.checkpoints.gguf import GGUF, for_transformers
from refrag_rag.checkpoints.quantization import need_for, quantization_config
from refrag_rag.config import LONGEST_CHARACTER, RefragConfig
from refrag_rag.errors import CheckpointError, InputError, MissingExtraError
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder, build_pooling
from refrag_rag.model.projector import build_projector

LOADING_ERRORS = (
    OSError, ValueError, LookupError, SafetensorError, RuntimeError, OverflowError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where and how parts are loaded; see `load` for what is not said here.

    Attributes
    ----------
    exact
        Whether tensors that a part has no place for are an error. They are ordinary where a model
        is taken out of a larger one, such as an encoder with a head.
    local_files_only
        Do not ask the hub for the base of a delta checkpoint.
    quantization
        Of the decoder's linear layers.
    name
        The model's, where its files give it none: a hub id, or a folder's name.
    layers
        Whether to load the decoder's layers, or only what embeds its tokens.

    Raises
    ------
    InputError
        If there is no such dtype, no such device here, or `base` is no place.
    """

    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    device_map: str | dict[str, Any] | None = None
    attn_implementation: str | None = None
    exact: bool = True
    adapter: bool | Literal["apart"] = True
    k: int | None = None
    base: str | Path | None = None
    local_files_only: bool = False
    name: str = ""
    quantization: str | None = None
    layers: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        dtype = self.dtype
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype.removeprefix("torch."), None)
        floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        if not (self.dtype is None or dtype == "auto" or floating):
            raise InputError(
                f"dtype = {self.dtype!r}; expected float32, bfloat16, float16 or 'auto'."
            )
        if not isinstance(self.base, str | Path | None):
            raise InputError(f"base = {self.base!r}; expected a GGUF file, a folder, or None.")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"device = {self.device!r} cannot be used ({error}); expected cpu, or a device "
                f"that PyTorch {torch.__version__} finds on this machine."
            ) from error

    @property
    def on_cpu(self) -> bool:
        """Whether all parts are loaded to the CPU."""
        return self.device_map is None and torch.device(self.device or "cpu").type == "cpu"

    @property
    def chosen_dtype(self) -> torch.dtype | str:
        """The dtype to ask transformers for."""
        return self.dtype or (torch.float32 if self.on_cpu else "auto")


def read_decoder(folder: Path, placement: Placement) -> PreTrainedModel:
    """Load a causal language model from a Hugging Face folder or a GGUF file.

    The weights of a GGUF file are dequantised; others may be quantised.

    Raises
    ------
    CheckpointError
        If there is none that can be read.
    """
    options: dict[str, Any] = {
        "attn_implementation": placement.attn_implementation,
        "device_map": placement.device_map,
    }
    if placement.layers and (ranks := ranks_of(folder)):
        decoder = read_factored(folder, ranks, placement)
    elif placement.layers:
        need_for(folder)
        options |= _quantised(folder, placement)
        decoder = read_model(AutoModelForCausalLM, folder, placement, **options)
    else:
        options["config"], partly = _without_layers(folder), replace(placement, exact=False)
        with _unreported():
            decoder = read_model(AutoModelForCausalLM, folder, partly, **options)
    if placement.device_map is None and placement.device is not None:
        decoder = decoder.to(placement.device)
    if folder.suffix == GGUF:  # transformers would refuse to save what it calls quantised
        del decoder.config.quantization_config
        decoder.hf_quantizer = None
    return decoder


def _without_layers(folder: Path) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise damaged(folder, error) from error
    text = config.get_text_config()
    text.num_hidden_layers = 0
    if getattr(text, "layer_types", None):
        text.layer_types = []
    return config


@contextmanager
def _unreported() -> Iterator[None]:
    """Transformers prints what a model has no place for, here all layers."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _quantised(folder: Path, placement: Placement) -> dict[str, Any]:
    """What is asked of transformers for a quantised decoder."""
    if placement.quantization is None:
        return {}
    if folder.suffix == GGUF:
        raise InputError(
            f"quantization = {placement.quantization!r} of a GGUF file, which is dequantised; "
            "expected a folder. Compose and save the model first."
        )
    name, on_cpu = placement.quantization, placement.on_cpu
    return {"quantization_config": quantization_config(name, on_cpu=on_cpu)}


def read_tokenizer(folder: Path, config: PretrainedConfig | None = None) -> Any:
    """Load a tokenizer.

    Parameters
    ----------
    config
        Of the model, if it was read: a GGUF file takes seconds to be read for it again.

    Raises
    ------
    CheckpointError
        If the folder has none.
    """
    try:
        with for_transformers(folder) as (place, options):
            tokenizer = AutoTokenizer.from_pretrained(
                place, local_files_only=True, config=config, **options
            )
        # Without files transformers makes one that knows its control tokens alone.
        if len(tokenizer) - len(tokenizer.added_tokens_decoder) < LONGEST_CHARACTER:
            raise ValueError("it has no vocabulary")
    except MissingExtraError:
        raise
    except Exception as error:  # tokenizers raises the class itself
        raise CheckpointError(
            f"No tokenizer in {folder} ({error}); expected tokenizer.json, or a whole GGUF file. "
            "Download or save it again."
        ) from error
    return tokenizer


def fill(module: nn.Module, source: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Copy tensors into a module.

    Parameters
    ----------
    source
        File in safetensors.
    weights
        What was read of it already, by the module's names.

    Raises
    ------
    CheckpointError
        If the file is damaged, or tensors are missing, too many or of another shape.
    """
    try:
        module.load_state_dict(load_file(source) if weights is None else dict(weights))
    except (SafetensorError, OSError) as error:
        raise damaged(source, error) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} does not fit the config and the other parts: {error} "
            "Save or download the whole checkpoint again."
        ) from error


def build(
    config: RefragConfig,
    encoder: PreTrainedModel,
    decoder: PreTrainedModel,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
) -> RefragModel:
    """Put parts together, projector and pooling to be filled; the encoder's tokenizer first."""
    place = decoder.get_input_embeddings().weight.device
    projector = build_projector(config, encoder=encoder.config, decoder=decoder.config)
    pooling = build_pooling(config)
    if pooling is not None:
        pooling.to(place, encoder.dtype)
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder.to(place), tokenizers[0], config, pooling),
        projector=projector.to(place, decoder.dtype),
        decoder=decoder,
        tokenizer=tokenizers[1],
    ).eval()


def read_model(auto: Any, folder: Path, placement: Placement, **options: Any) -> PreTrainedModel:
    """Load a model by one of transformers' auto classes, whole and nothing else.

    Raises
    ------
    CheckpointError
        If it cannot be read, lacks tensors, or has others.
    """
    model: PreTrainedModel
    try:
        with for_transformers(folder) as (place, source):
            model, found = auto.from_pretrained(
                place,
                local_files_only=True,
                use_safetensors=True,
                dtype=placement.chosen_dtype,
                output_loading_info=True,
                **source,
                **options,
            )
    except MissingExtraError:
        raise
    except LOADING_ERRORS as error:
        raise damaged(folder, error) from error
    # transformers only warns, and fills what is missing with random numbers.
    _refuse(folder, "lacks the tensors", found["missing_keys"])
    if placement.exact:
        _refuse(folder, "has tensors that do not belong to the model:", found["unexpected_keys"])
    return model


def _refuse(folder: Path, what: str, keys: Collection[str]) -> None:
    if keys:
        named = ", ".join(sorted(keys)[:5]) + (" ..." if len(keys) > 5 else "")
        raise CheckpointError(
            f"{folder} {what} {named} ({len(keys)}); expected the model's own and all of them. "
            "Download or save it again."
        )


def damaged(place: Path, error: Exception) -> CheckpointError:
    """The error for what cannot be read."""
    return CheckpointError(
        f"{place} cannot be loaded ({type(error).__name__}: {error}). "
        "It is missing or damaged, holds no safetensors, or is of a newer architecture: download "
        "or save it again."
    )
