"""Smaller decoders by pruning or factorising, after a look at what their layers read."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refrag_rag.checkpoints.factored import factorise
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel

RATES = {"wanda": 0.5, "svd": 0.2}  # taken where none is given
Inputs = dict[str, Tensor]
"""By name of a linear layer: the root of the mean square of each of its inputs, *shape* (in,)."""


def shrink(model: RefragModel, method: str, rate: float, texts: Sequence[str]) -> None:
    """Prune or factorise the linear layers of a model's decoder, in place.

    Parameters
    ----------
    method
        ``wanda``: the smallest weights of every output, by magnitude times the size of their
        input, become 0 (Sun et al. 2023). It saves neither bytes nor time by itself. ``svd``: a
        layer becomes two thin ones, see `factorise`.
    rate
        Share of the weights that go.
    texts
        What the decoder reads for that look.

    Raises
    ------
    InputError
        If there is no such method, no such rate, or no text.
    """
    if method not in METHODS:
        raise InputError(f"method = {method!r}; expected one of int8, {', '.join(METHODS)}.")
    if not 0 < rate < 1:
        raise InputError(f"rate = {rate}; expected a share of the weights, between 0 and 1.")
    inputs = look(model, texts)
    with torch.no_grad():
        for name, scale in inputs.items():
            METHODS[method](model.decoder, name, rate, scale)


@torch.no_grad()
def look(model: RefragModel, texts: Sequence[str]) -> Inputs:
    """How large the inputs of the decoder's linear layers are; its head is left out.

    Raises
    ------
    InputError
        If there is no text.
    """
    squares: Inputs = {}
    read = 0
    hooks = []
    for name, layer in model.decoder.named_modules():
        if isinstance(layer, nn.Linear) and layer is not model.decoder.get_output_embeddings():

            def add(_layer: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                found = given[0].flatten(0, -2).float().square().sum(0)
                squares[name] = squares.get(name, 0) + found

            hooks.append(layer.register_forward_pre_hook(add))
    try:
        for text in texts:
            ids = model.tokenizer(text, return_tensors="pt").input_ids[:, : model.max_positions]
            if ids.shape[1]:
                model.decoder(input_ids=ids.to(model.device), use_cache=False)
                read += ids.shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        raise InputError("No text to look at the decoder with; expected at least one. See --data.")
    return {name: (total / read).sqrt().clone() for name, total in squares.items()}


def _prune(decoder: PreTrainedModel, name: str, rate: float, scale: Tensor) -> None:
    weight = decoder.get_submodule(name).weight
    important = weight.float().abs() * scale  # (out, in)
    count = int(rate * weight.shape[1])
    least = important.topk(count, largest=False).indices if count else None
    if least is not None:
        weight.scatter_(1, least, 0)


def _factorise(decoder: PreTrainedModel, name: str, rate: float, scale: Tensor) -> None:
    outputs, inputs = decoder.get_submodule(name).weight.shape
    factorise(decoder, name, max(1, int((1 - rate) * outputs * inputs / (outputs + inputs))), scale)


METHODS: dict[str, Callable[[PreTrainedModel, str, float, Tensor], None]] = {
    "wanda": _prune,
    "svd": _factorise,
}
