"""Encoder and decoder compiled for training: their small operations are fused into few."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from refrag_rag.model.compiling import compile_model


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


def _outermost(module: nn.Module) -> list[PreTrainedModel]:
    """Models that are not part of another one."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in _outermost(child)]
