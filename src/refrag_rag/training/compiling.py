"""Encoder and decoder compiled for training: their small operations are fused into few."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from refrag_rag.errors import InputError

COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch takes if CXX does not say otherwise


@contextmanager
def compiled(module: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let a module's Hugging Face models run compiled, for sequences of any length.

    Names and values of parameters stay as they are, and so does everything around the models:
    projector, mixing and loss. Compiling takes a minute or two, at the first step of each kind.

    Parameters
    ----------
    module
        Holds the models.
    wanted
        False leaves everything as it is.

    Raises
    ------
    InputError
        If the models are on the CPU and what compiling for it needs is missing.
    """
    models = _outermost(module) if wanted else []
    if any(model.device.type == "cpu" for model in models):
        _check_tools()
    for model in models:
        model.compile(dynamic=True)
    try:
        yield
    finally:
        for model in models:
            model._compiled_call_impl = None


def missing_tools() -> list[str]:
    """What compiling for a CPU needs and this machine lacks."""
    compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    found = {
        f"the C++ compiler {compiler}": shutil.which(compiler) is not None,
        f"Python's headers ({headers})": headers.is_file(),
    }
    return [tool for tool, is_there in found.items() if not is_there]


def _check_tools() -> None:
    missing = missing_tools()
    if missing:
        raise InputError(
            f"compile = True on a CPU, but {' and '.join(missing)} cannot be found. Install them, "
            "or set compile = False (--no-compile)."
        )


def _outermost(module: nn.Module) -> list[PreTrainedModel]:
    """Models that are not part of another one."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in _outermost(child)]
