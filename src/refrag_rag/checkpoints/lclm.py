"""LCLM's layout (arXiv 2606.09659): ``encoder/``, ``adapter/``, ``decoder/`` and a config.

Text to compress stands between two marker tokens, one vector for every k tokens of the encoder's
tokenizer between them; windows of many chunks; three poolings, two masks, three adapters.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from refrag_rag.checkpoints.encoders import read_encoder
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    fill,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.config import ProjectorKind, RefragConfig
from refrag_rag.errors import CheckpointError, InputError
from refrag_rag.model import RefragModel
from refrag_rag.text.tokenization import backend, same_vocabulary, token_id

NAME = "LCLM"
CONFIG, ADAPTER = "model_config.json", "adapter/adapter.safetensors"
MARKERS = ("<|memory_start|>", "<|memory_end|>")
KINDS: dict[str, ProjectorKind] = {
    "mlp": "norm_mlp",
    "mlp_attn": "norm_mlp_attn",
    "attn_mlp": "attn_norm_mlp",
}
DTYPE = torch.bfloat16  # off the CPU; the files are float32 masters
_NUMBERED = re.compile(r"checkpoint_(\d+)")


def find(folder: Path) -> Path | None:
    """Where the parts lie, if a folder claims to be of this layout, or of an older one of LCLM.

    In some uploads that is the newest ``checkpoint_N``.
    """
    if not (folder / "adapter").is_dir():
        numbered = {
            int(match[1]): path
            for path in folder.iterdir()
            if path.is_dir() and (match := _NUMBERED.fullmatch(path.name))
        }
        folder = numbered[max(numbered)] if numbered else folder
    return folder if any((folder / name).is_file() for name in (CONFIG, ADAPTER)) else None


def read(folder: Path, placement: Placement) -> RefragModel:
    """Load a checkpoint of LCLM's layout, in evaluation mode.

    Raises
    ------
    CheckpointError
        If files, settings, tensors or tokens are missing or do not fit together.
    """
    given = _settings(folder / CONFIG)
    if placement.dtype is None and not placement.on_cpu:
        placement = replace(placement, dtype=DTYPE)
    tokenizers = read_tokenizer(folder / "encoder"), read_tokenizer(folder / "decoder")
    for name in (*MARKERS, "<|memory|>"):
        token_id(backend(tokenizers[1]), name)  # raises where there is none
    decoder = read_decoder(folder / "decoder", placement)
    encoder = read_encoder(folder / "encoder", placement)
    config = _config(
        folder / CONFIG,
        given,
        name=placement.name or folder.name,
        encoder_width=encoder.config.hidden_size,
        decoder_width=decoder.get_input_embeddings().weight.shape[1],
        shared_vocabulary=same_vocabulary(*tokenizers),
    )
    if placement.k is not None:
        config = config.with_k(placement.k)
    model = build(config, encoder, decoder, tokenizers)
    fill(model.projector, folder / ADAPTER)
    return model


def _settings(path: Path) -> Any:
    try:
        given = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        old = "compression_ratio" not in given
    except (ValueError, TypeError, OSError) as error:
        raise _unusable(path, error) from error
    if old:
        found = "names the rate chunk_size" if "chunk_size" in given else "states no rate"
        raise CheckpointError(
            f"{path.parent} is of an older layout of LCLM: {CONFIG} {found}; expected "
            "compression_ratio, as in the released checkpoints. Download it again, or write all "
            "settings that it was trained with there."
        )
    return given


def _config(path: Path, given: Any, **parts: Any) -> RefragConfig:
    try:
        if given["encoder_window_size"] % given["compression_ratio"]:
            raise InputError(
                f"encoder_window_size = {given['encoder_window_size']} is no multiple of "
                f"compression_ratio = {given['compression_ratio']}"
            )
        return RefragConfig(
            k=given["compression_ratio"],
            window=given["encoder_window_size"],
            chunking="exact",
            pooling=given["pooling"],
            chunked_by="encoder",
            mask=given["encoder_mask_type"],
            overlap=given["boundary_overlap"],
            projector=KINDS[given["adapter_type"]],
            projector_layers=given.get("num_adapter_layers", 1),
            boundary=MARKERS,
            policy="none",  # not trained on spans that text cuts in two
            **parts,
        )
    except (KeyError, ValueError, TypeError, ArithmeticError, InputError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be used ({type(error).__name__}: {error}); expected LCLM's settings, "
        f"with an adapter_type among {', '.join(KINDS)}. Download it again."
    )
