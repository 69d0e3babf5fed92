"""PISCO's and CLaRa's layout: two LoRA adapters and the outer layers of a decoder, in pickles.

The compressor is the decoder's base with the other adapter, and memory tokens behind the text.
Loading never reads a pickle: `convert` does, when it is asked to, and writes our own layout.
"""

import json
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel

from refrag_rag.checkpoints import native
from refrag_rag.checkpoints.lora import merge
from refrag_rag.checkpoints.parts import Placement, build, read_decoder, read_tokenizer
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError, InputError
from refrag_rag.model import RefragModel

NAME = "PISCO"
CONFIG, ADAPTERS, OUTER = "config.json", "adapters.pth", "decoder_first_last_layers.pth"
SCALE = 2.0  # of the adapters, whose settings are not in the files
LICENCES = {
    "COCOM": "PISCO: CC-BY-4.0 in its metadata, CC-BY-NC in its card; take the stricter.",
    "CLaRa": "CLaRa: for research only.",
}
_LORA = re.compile(r"(?:base_model\.model\.)?(model\.layers\..+)\.lora_([AB])(?:\.\w+)?\.weight")
logger = logging.getLogger(__name__)


def find(folder: Path) -> Path | None:
    """Where the parts lie, if a folder is of this layout."""
    return folder if (folder / ADAPTERS).is_file() else None


def read(folder: Path, placement: Placement) -> RefragModel:
    """Refuse: what is here are pickles.

    Raises
    ------
    CheckpointError
        Says how to convert them.
    """
    raise CheckpointError(
        f"{placement.name or folder} holds pickles, which are never loaded; expected safetensors. "
        f"Write them as a model first: refrag convert {folder} --base DECODER --to OUT"
    )


def licence_of(folder: Path) -> str:
    """What is known of the licence.

    Raises
    ------
    CheckpointError
        If the folder is none of this layout.
    """
    return LICENCES[_settings(folder)["model_type"]]


def convert(folder: Path, out: Path, *, base: Path, accept_license: bool = False) -> None:
    """Write a checkpoint of our own layout, adapters merged; pickles are read, tensors only.

    Encoder and decoder are written, and held, apart: the base twice.

    Parameters
    ----------
    base
        Folder of the decoder that it was trained on.
    accept_license
        Whether the licence was read and accepted, see `licence_of`.

    Raises
    ------
    InputError
        If it was not.
    CheckpointError
        If files are missing, hold anything but tensors, or do not fit together.
    """
    given = _settings(folder)
    if not accept_license:
        raise InputError(
            f"{LICENCES[given['model_type']]} Expected that you accept it. Read its card, then "
            "pass --accept-license (accept_license=True)."
        )
    count = given["doc_max_length"] // given["compr_rate"]
    memory = tuple(f"<MEM{place}>" for place in range(count))
    tokenizer = read_tokenizer(base)
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        raise CheckpointError(f"The tokenizer of {base} has no bos or eos token; expected both.")
    names = [*memory, "<AE>", "<ENC>", "<SEP>"]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.bos_token
    adapters, outer = _tensors(folder / ADAPTERS), _tensors(folder / OUTER)
    parts = []
    for name in ("encoder_adapter", "decoder_adapter"):
        if not isinstance(adapters.get(name), Mapping):
            raise CheckpointError(f"{folder / ADAPTERS} has no {name}; download it again.")
        decoder = read_decoder(base, Placement(dtype="auto"))
        _fill_outer(decoder, outer, folder / OUTER, len(tokenizer))
        merge(decoder, _factors(adapters[name], folder / ADAPTERS))
        parts.append(decoder)
    width = parts[0].config.hidden_size
    config = RefragConfig(
        name=folder.resolve().name,
        k=given["compr_rate"],
        window=given["doc_max_length"],
        chunking="even",
        pooling="memory",
        memory=(("<ENC>", tokenizer.bos_token), (tokenizer.eos_token,), memory),
        encoder_width=width,
        decoder_width=width,
        shared_vocabulary=True,
        projector="identity",
        boundary=("", "<SEP>"),
        policy="none",
    )
    encoder = parts[0].base_model
    native.save(build(config, encoder, parts[1], (tokenizer, tokenizer)), out)


def _settings(folder: Path) -> Any:
    path = folder / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        rate, length = given["compr_rate"], given["doc_max_length"]
        fine = type(rate) is type(length) is int and rate > 0 and length > 0 == length % rate
        if given["model_type"] not in LICENCES or given.get("compr_model_name") or not fine:
            raise ValueError("another kind of compressor, or a length that is no multiple")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be used ({type(error).__name__}: {error}); expected the settings of "
            "PISCO (COCOM) or CLaRa, without a compressor model of its own. Download it again."
        ) from error
    return given


def _tensors(path: Path) -> Any:
    """What a pickle holds; torch lets nothing but tensors and plain containers through."""
    logger.warning("Reading the pickle %s, tensors only.", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}); it is missing, "
            "damaged or holds other objects. Do not open it otherwise; download it again."
        ) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds {type(found).__name__}; expected named tensors.")
    return found


def _fill_outer(
    decoder: PreTrainedModel, outer: Mapping[str, Any], path: Path, tokens: int
) -> None:
    """Put the embedding table and the head in, which have rows for the added tokens."""
    decoder.resize_token_embeddings(tokens, mean_resizing=False)
    places = {
        "model.embed_tokens.weight": decoder.get_input_embeddings().weight,
        "lm_head.weight": decoder.get_output_embeddings().weight,
    }
    for name, place in places.items():
        tensor = outer.get(name)
        if not isinstance(tensor, Tensor) or tensor.shape != place.shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "missing"
            raise CheckpointError(
                f"{name} of {path} is {found}, the base with its tokens has {tuple(place.shape)}; "
                "expected the decoder that it was trained on. Pass another base."
            )
        place.data.copy_(tensor)


def _factors(adapter: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """An adapter's tensors as `lora.merge` wants them."""
    factors: dict[str, Tensor] = {}
    for name, tensor in adapter.items():
        match = _LORA.fullmatch(name)
        if match is None or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} has {name}; expected factors of LoRA alone.")
        scaled = tensor.float() if match[2] == "A" else SCALE * tensor.float().T
        factors[f"{match[1]}.{match[2]}"] = scaled
    return factors
