"""Models compiled by torch, after a look at what that needs on a CPU."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from refrag_rag.errors import InputError

COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch takes if CXX does not say otherwise
VARIANTS = 64  # of one layer's code, before the rest would run uncompiled


def compile_model(model: PreTrainedModel) -> None:
    """Let a model run compiled, for sequences of any length, from its next call on.

    Raises
    ------
    InputError
        If the model is on a CPU and what compiling for it needs is missing.
    """
    _check_tools(model)
    model.compile(dynamic=True)


@contextmanager
def compiled(module: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let the layers of the Hugging Face models in a module run compiled while it is trained.

    The layers of a model are one piece of code, compiled once for batches of any size. Names and
    values of parameters stay as they are, and so does what is around the layers: embeddings,
    projector, mixing and loss. Nothing is done unless it is `wanted`.

    Raises
    ------
    InputError
        See `compile_model`.
    """
    models = _outermost(module) if wanted else []
    for model in models:
        _check_tools(model)
    layers = [layer for model in models for layer in _layers(model)]
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        # kinds of layer, with and without gradient, one row or many: more than torch's eight
        limits: Any = torch.compiler.config
        with limits.patch(recompile_limit=VARIANTS):
            yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # torch has no public way back


def _check_tools(model: PreTrainedModel) -> None:
    missing = missing_tools() if model.device.type == "cpu" else []
    if missing:
        raise InputError(
            f"compile = True for a model on a CPU, but {' and '.join(missing)} cannot be found. "
            "Install them, or do without compile."
        )


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Its repeated layers; the model itself where they are not known."""
    found = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    return found or [model]


def missing_tools() -> list[str]:
    """What compiling for a CPU needs and this machine lacks."""
    compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    found = {
        f"the C++ compiler {compiler}": shutil.which(compiler) is not None,
        f"Python's headers ({headers})": headers.is_file(),
    }
    return [tool for tool, is_there in found.items() if not is_there]


def _outermost(module: nn.Module) -> list[PreTrainedModel]:
    """Models that are not part of another one."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in _outermost(child)]
