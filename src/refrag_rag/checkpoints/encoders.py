"""Encoders: from folders of their own, from shapes alone, or as a decoder's first layers."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from refrag_rag.checkpoints.parts import LOADING_ERRORS, Placement, damaged, read_model
from refrag_rag.errors import CheckpointError


def read_encoder(folder: Path, placement: Placement) -> PreTrainedModel:
    """Load a text encoder: of an encoder-decoder its encoder, without an unused pooling layer.

    Raises
    ------
    CheckpointError
        If the folder holds none that can be read.
    """
    _, auto = _encoder_class(folder)
    return _without_pooler(partial(read_model, auto, folder, placement))


def first_layers(decoder: PreTrainedModel, count: int) -> PreTrainedModel:
    """An encoder of a decoder's embedding table and first layers, copied.

    Raises
    ------
    CheckpointError
        If the decoder has fewer layers, or is not made of such.
    """
    config = copy.deepcopy(decoder.config.get_text_config())
    if not 0 < count <= config.num_hidden_layers:
        raise CheckpointError(
            f"An encoder of {count} layers of a decoder that has {config.num_hidden_layers}; "
            "expected 1 to that."
        )
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    encoder: PreTrainedModel = AutoModel.from_config(config, dtype=decoder.dtype)
    theirs = decoder.base_model.state_dict()
    own = encoder.state_dict()
    if lacking := [name for name in own if name not in theirs]:
        raise CheckpointError(
            f"{type(decoder).__name__} has no {lacking[0]}; expected a decoder of layers one on "
            "the other. Choose an encoder of its own."
        )
    encoder.load_state_dict({name: theirs[name] for name in own})
    return encoder.to(decoder.device)


def new_encoder(folder: Path) -> PreTrainedModel:
    """An encoder of the shape that a folder's ``config.json`` describes, to be filled.

    Raises
    ------
    CheckpointError
        If the folder describes none.
    """
    config, auto = _encoder_class(folder)
    return _without_pooler(partial(auto.from_config, config, dtype=torch.float32))


def _without_pooler(make: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    try:
        return make(add_pooling_layer=False)
    except TypeError:  # most architectures have no such layer to leave out
        return make()


def _encoder_class(folder: Path) -> tuple[PretrainedConfig, Any]:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise damaged(folder, error) from error
    texts_only = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return config, AutoModelForTextEncoding if texts_only else AutoModel
