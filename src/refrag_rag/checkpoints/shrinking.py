"""Smaller decoders by pruning or factorising, after a look at what their layers read."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refrag_rag.checkpoints.factored import factorise
from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.prompt import CompressedPrompt

SVD = "svd"
PRUNED: Mapping[str, int | None] = {"wanda": None, "wanda-2:4": 4}  # weights that compete: a row's
RATES = {"wanda": 0.5, "wanda-2:4": 0.5, SVD: 0.1}  # taken where none is given
MADE = "refrag_compressed"  # in the decoder's config: what was done
STEPS = 10**6  # of the bisection
Inputs = dict[str, Tensor]
"""By name of a linear layer, of its inputs: mean products (in, in), or mean squares (in,)."""


def shrink(model: RefragModel, method: str, rate: float, inputs: Inputs) -> None:
    """Prune or factorise the linear layers of a model's decoder, in place.

    Parameters
    ----------
    method
        ``wanda``: the smallest weights of every output, by magnitude times the size of their
        input, become 0 (Sun et al. 2023); ``wanda-2:4``: two of any four neighbours, as some GPUs
        want it. Neither saves bytes or time by itself. ``svd``: layers become two thin ones.
    rate
        Share of these layers' weights that go.
    inputs
        What `look` found; whole for ``svd``.

    Raises
    ------
    InputError
        If there is no such method, or it has no such rate.
    """
    check(method, rate)
    with torch.no_grad():
        if method == SVD:
            _factorise(model.decoder, rate, inputs)
        for name, found in inputs.items() if method in PRUNED else ():
            _prune(model.decoder.get_submodule(name).weight, rate, found, PRUNED[method])
    setattr(model.decoder.config, MADE, {"method": method, "rate": rate})


def check(method: str, rate: float) -> None:
    """Refuse what `shrink` would refuse."""
    if method not in RATES:
        raise InputError(f"method = {method!r}; expected one of int8, {', '.join(RATES)}.")
    if not 0 < rate < 1 or (method == "wanda-2:4" and rate != 0.5):
        raise InputError(
            f"rate = {rate} with {method}; expected a share of the weights between 0 and 1, and "
            "with wanda-2:4 0.5 alone."
        )


@torch.no_grad()
def look(model: RefragModel, prompts: Sequence[CompressedPrompt], *, whole: bool) -> Inputs:
    """What the decoder's linear layers read of prompts; its head is left out.

    Parameters
    ----------
    whole
        Products of any two inputs of a layer, a square matrix each; else their squares alone.

    Raises
    ------
    InputError
        If no prompt fits into the decoder's window.
    """
    found: Inputs = {}
    hooks = []
    for name, layer in model.decoder.named_modules():
        if isinstance(layer, nn.Linear) and layer is not model.decoder.get_output_embeddings():

            def add(_layer: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                rows = given[0].flatten(0, -2).float()  # (T, in)
                found[name] = found.get(name, 0) + (
                    rows.T @ rows if whole else rows.square().sum(0)
                )

            hooks.append(layer.register_forward_pre_hook(add))
    readable = [prompt for prompt in prompts if 0 < prompt.positions <= model.max_positions]
    try:
        for prompt in readable:
            read = model.decoder_inputs([prompt])
            model.decoder(inputs_embeds=read.inputs_embeds, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    if not readable:
        raise InputError("No prompt that the decoder can read; expected at least one. See --data.")
    count = sum(prompt.positions for prompt in readable)
    return {name: total / count for name, total in found.items()}


def _prune(weight: Tensor, rate: float, found: Tensor, group: int | None) -> None:
    squares = found.diagonal() if found.dim() == 2 else found
    important = weight.float().abs() * squares.sqrt()  # (out, in)
    size = group or weight.shape[1]
    groups = important.view(len(weight), -1, size)
    least = groups.topk(int(rate * size), largest=False).indices
    weight.view(groups.shape).scatter_(2, least, 0)


def _factorise(decoder: PreTrainedModel, rate: float, inputs: Inputs) -> None:
    """The least change of the layers' outputs on these inputs (Wang et al. 2024, SVD-LLM)."""
    directions, sizes = {}, {}
    for name, products in inputs.items():
        weight: Any = decoder.get_submodule(name).weight
        square = products.double()  # in float32 the smallest of its values are noise
        square.diagonal().add_(1e-6 * square.diagonal().mean())
        outputs = weight.float() @ torch.linalg.cholesky(square).float()  # (out, in)
        directions[name], sizes[name], _ = torch.linalg.svd(outputs, full_matrices=False)
    for name, rank in _ranks(decoder, rate, sizes).items():
        factorise(decoder, name, rank, directions[name])


def _ranks(decoder: PreTrainedModel, rate: float, sizes: Mapping[str, Tensor]) -> dict[str, int]:
    """Ranks with which all layers lose one share of their outputs.

    A layer that does not become smaller by that is left as it is.
    """
    shapes = {name: decoder.get_submodule(name).weight.shape for name in sizes}
    lost = {}
    for name, values in sizes.items():
        energy = values.square().double()
        lost[name] = energy.flip(0).cumsum(0).flip(0) / energy.sum()  # by the rank that is kept

    def ranks(step: int) -> dict[str, int]:
        found = {name: max(1, int((one > step / STEPS).sum())) for name, one in lost.items()}
        return {n: r for n, r in found.items() if r * sum(shapes[n]) < shapes[n].numel()}

    def saved(step: int) -> int:
        return sum(shapes[n].numel() - r * sum(shapes[n]) for n, r in ranks(step).items())

    wanted = rate * sum(shape.numel() for shape in shapes.values())
    return ranks(bisect_left(range(STEPS), wanted, key=saved))
