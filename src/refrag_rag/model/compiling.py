"""Models compiled by torch, after a look at what that needs on a CPU."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

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


def missing_tools() -> list[str]:
    """What compiling for a CPU needs and this machine lacks."""
    compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    found = {
        f"the C++ compiler {compiler}": shutil.which(compiler) is not None,
        f"Python's headers ({headers})": headers.is_file(),
    }
    return [tool for tool, is_there in found.items() if not is_there]
