"""A name to a model: find the folder, see its layout, read it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from refrag_rag.checkpoints import arc, delta, lclm, native, pisco, xrag
from refrag_rag.checkpoints.factored import ranks_of
from refrag_rag.checkpoints.lora import ADAPTER
from refrag_rag.checkpoints.machine import AUTO, fitting, needs, this_machine
from refrag_rag.checkpoints.parts import Placement
from refrag_rag.checkpoints.resolve import model_name, resolve
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel


class Layout(Protocol):
    """What a module that reads one layout of checkpoints has.

    Attributes
    ----------
    NAME
        Of the layout.
    """

    NAME: str

    def find(self, folder: Path) -> Path | None:
        """Where the parts lie, None if a folder is of another layout; looks at names of files."""

    def read(self, folder: Path, placement: Placement) -> RefragModel:
        """Load it from there."""


LAYOUTS: tuple[Layout, ...] = (delta, native, lclm)


def load(  # noqa: PLR0913 - the options users know from from_pretrained
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    quantization: str | None = None,
    adapter: bool | Literal["apart"] = True,
    k: int | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    layers: bool = True,
) -> RefragModel:
    """Load a checkpoint, in evaluation mode.

    Parameters
    ----------
    name_or_path
        Name of an embedded model (``smol``), a folder, or a hub id.
    dtype
        Of all parts. Default: float32 on CPUs; elsewhere as stored, LCLM's in bfloat16.
    device, device_map
        Where to: one device, or a map of the decoder's modules (encoder and projector then
        follow its input embeddings). ``auto`` looks at this machine and picks device, dtype and
        quantisation, the most exact ones that fit into its free memory; it logs what they are.
    quantization
        Weights of the decoder's linear layers in fewer bits (extra ``quantization``): ``int8``
        (torchao, on CPUs too), ``int4`` (torchao) or ``nf4`` (bitsandbytes) on CUDA devices.
    adapter
        Whether to load the decoder's LoRA adapter, if there is one; without it the original
        decoder is back, bit for bit. A delta checkpoint's is merged into the decoder's weights;
        ``apart`` keeps it beside them, to be trained further.
    k
        Another of the chunk sizes that the model was trained on. Each has a namespace of its own
        in the store.
    base
        GGUF file or folder of the base of a delta checkpoint, when it is put together for the
        first time. Default: an installed package that carries it, else the hub.
    layers
        Whether to load the decoder's layers. Without them the model lays out prompts, which
        another engine decodes.
    attn_implementation, revision, cache_dir, token, local_files_only
        As in ``from_pretrained`` of transformers.

    Raises
    ------
    CheckpointError
        If there is no such model, its layout is unknown, or its files do not fit together.
    InputError
        If the model was not trained on chunks of `k`.
    """
    folder = resolve(
        name_or_path,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    placement = Placement(
        dtype,
        None if device == AUTO else device,
        device_map,
        attn_implementation,
        adapter=adapter,
        k=k,
        base=base,
        local_files_only=local_files_only,
        layers=layers,
        name=model_name(name_or_path),
        quantization=quantization,
    )
    layout, folder = _layout(folder)
    if device == AUTO:
        placement = _placed(layout, folder, placement)
    return layout.read(folder, placement)


def decoder_folder(name_or_path: str | Path) -> Path:
    """A checkpoint's decoder as an ordinary Hugging Face folder, which inference engines serve.

    A delta checkpoint is put together first, its adapter merged into the decoder.

    Raises
    ------
    CheckpointError
        If there is no such model, or a LoRA adapter lies beside the decoder.
    """
    layout, folder = _layout(resolve(name_or_path))
    if layout is delta:
        folder = delta.assembled(folder)
    if (folder / ADAPTER).is_dir():
        raise CheckpointError(
            f"{folder} has a LoRA adapter beside its decoder, which alone is not what was trained; "
            "expected one decoder. Make a delta checkpoint of it (refrag train delta): that is put "
            "together with its adapter merged."
        )
    if ranks_of(folder / native.DECODER):
        raise CheckpointError(
            f"The decoder in {folder} has factored layers, which other engines cannot read; "
            "expected an ordinary one. Serve the decoder that it was made from."
        )
    return folder / native.DECODER


def _placed(layout: Layout, folder: Path, placement: Placement) -> Placement:
    """Where this machine can hold the checkpoint, as far as nothing was asked for."""
    whole = delta.assembled(folder, placement) if layout.NAME == delta.NAME else folder
    chosen = fitting(this_machine(), needs(whole))
    return replace(
        placement,
        device=chosen.device,
        dtype=placement.dtype or chosen.dtype,
        quantization=placement.quantization or chosen.quantization,
    )


def layout_of(folder: Path) -> tuple[str, Path]:
    """Name of a checkpoint's layout, and where its parts lie.

    Raises
    ------
    CheckpointError
        If the layout is unknown.
    """
    layout, place = _layout(folder)
    return layout.NAME, place


def _layout(folder: Path) -> tuple[Layout, Path]:
    for layout in LAYOUTS:
        if place := layout.find(folder):
            return layout, place
    if (folder / pisco.ADAPTERS).is_file() or arc.find(folder) or xrag.find(folder):
        raise CheckpointError(
            f"{folder} is a checkpoint of PISCO, CLaRa, xRAG or ARC-Encoder; expected one of our "
            f"own layout. Run: refrag convert {folder} --to NEW_FOLDER"
        )
    raise CheckpointError(
        f"{folder} has neither refrag_config.json (our layout) nor model_config.json (LCLM's); "
        "expected a checkpoint of one of them. An encoder and a decoder of their own are put "
        "together with RefragModel.compose."
    )
