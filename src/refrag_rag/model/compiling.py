"""Models compiled by torch, after a look at what that needs on a CPU."""

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


def compile_model(model: PreTrainedModel) -> None:
    """Let a model run compiled, for sequences of any length, from its next call on.

    Raises
    ------
    InputError
        If the model is on a CPU and what compiling for it needs is missing.
    """
    missing = missing_tools() if model.device.type == "cpu" else []
    if missing:
        raise InputError(
            f"compile = True for a model on a CPU, but {' and '.join(missing)} cannot be found. "
            "Install them, or do without compile."
        )
    model.compile(dynamic=True)


@contextmanager
def compiled(module: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let the Hugging Face models in a module run compiled while it is trained, if that is wanted.

    Names and values of parameters stay as they are, and so does everything around the models:
    projector, mixing and loss. Compiling takes a minute or two, at the first step of each kind.

    Raises
    ------
    InputError
        See `compile_model`.
    """
    models = _outermost(module) if wanted else []
    for model in models:
        compile_model(model)
    try:
        yield
    finally:
        for model in models:
            model._compiled_call_impl = None  # torch has no public way back


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
