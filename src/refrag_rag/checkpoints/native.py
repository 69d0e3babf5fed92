"""Our own layout: ``encoder/``, ``decoder/``, ``projector.safetensors``, ``refrag_config.json``.

A learned pooling, learned policies and a LoRA adapter of the decoder lie beside them, if there
are any.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from refrag_rag.checkpoints.card import model_card
from refrag_rag.checkpoints.encoders import read_encoder
from refrag_rag.checkpoints.lora import has_adapter, read_adapter, split, write_adapter
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    fill,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.checkpoints.policy import read_policies, write_policies
from refrag_rag.checkpoints.quantization import can_be_written
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel

CONFIG, CARD = "refrag_config.json", "README.md"
PROJECTOR, POOLING = "projector.safetensors", "pooling.safetensors"
ENCODER, DECODER = "encoder", "decoder"
NAME = "refrag-rag"


def save(model: RefragModel, folder: Path, *, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint. It is built beside `folder` and renamed into place when complete.

    Parameters
    ----------
    weights
        Instead of the model's own, which may be spread over processes: whole tensors by name.

    Raises
    ------
    CheckpointError
        If the folder cannot be written, or exists and is no checkpoint of this layout; or if the
        decoder is quantised.
    """
    check_savable(model)
    with beside(folder) as part:
        write(model, part, weights=weights)


def write(model: RefragModel, part: Path, *, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the parts of a checkpoint into a folder."""
    _save_decoder(model, part, weights)
    model.tokenizer.save_pretrained(part / DECODER)
    encoder = weights and below(weights, "encoder.model.")
    model.encoder.model.save_pretrained(part / ENCODER, state_dict=encoder)
    model.encoder.tokenizer.save_pretrained(part / ENCODER)
    for prefix, name in (("projector.", PROJECTOR), ("encoder.pooling.", POOLING)):
        if own := below(weights or model.state_dict(), prefix):
            save_file({name: tensor.contiguous() for name, tensor in own.items()}, part / name)
    write_policies(model.policies, part)
    (part / CONFIG).write_text(model.config.to_json(), encoding="utf-8")
    (part / CARD).write_text(model_card(model), encoding="utf-8")


def check_savable(model: RefragModel) -> None:
    """Refuse a decoder in fewer bits, unless in torchao's int8, which is written as it is.

    Raises
    ------
    CheckpointError
        Says what to do instead.
    """
    if not can_be_written(model.decoder):
        raise CheckpointError(
            "The decoder is quantised; expected one with its own weights. Load the model without "
            "quantization and save that: it is quantised again when it is loaded."
        )


def find(folder: Path) -> Path | None:
    """Where the parts lie, if a folder claims to be of this layout."""
    return folder if (folder / CONFIG).is_file() else None


def read(folder: Path, placement: Placement) -> RefragModel:
    """Load a checkpoint of our own layout, in evaluation mode.

    Raises
    ------
    CheckpointError
        If files are missing or do not fit together.
    InputError
        If the placement asks for a k that the model was not trained on.
    """
    config = RefragConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
    if placement.k is not None:
        config = config.with_k(placement.k)
    decoder = read_decoder(folder / DECODER, placement)
    if placement.adapter and placement.layers:
        read_adapter(decoder, folder)
    encoder = read_encoder(folder / ENCODER, placement)
    model = build(config, encoder, decoder, _tokenizers(folder))
    if model.projector.state_dict():
        fill(model.projector, folder / PROJECTOR)
    if model.encoder.pooling is not None:
        fill(model.encoder.pooling, folder / POOLING)
    model.policies.update(read_policies(folder, chunk_width=config.chunk_width))
    return model


def _tokenizers(folder: Path) -> tuple[Any, Any]:
    """The encoder's and the decoder's; read once where they are the same files."""
    decoder = read_tokenizer(folder / DECODER)
    names = ("tokenizer.json", "tokenizer_config.json")
    pairs = [(folder / ENCODER / name, folder / DECODER / name) for name in names]
    if all(a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes() for a, b in pairs):
        return decoder, decoder
    return read_tokenizer(folder / ENCODER), decoder


def _save_decoder(model: RefragModel, part: Path, weights: Mapping[str, Tensor] | None) -> None:
    """The decoder without its adapter, and the adapter beside it."""
    if not has_adapter(model.decoder):
        own = weights and below(weights, "decoder.")
        model.decoder.save_pretrained(part / DECODER, state_dict=own)
        return
    original, adapter = split(below(weights or model.state_dict(), "decoder."))
    model.decoder.save_pretrained(part / DECODER, state_dict=original)
    write_adapter(model.decoder, adapter, part)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


@contextmanager
def beside(folder: Path, *, advice: str = "Choose another folder.") -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block, which fills it, ends well.

    Raises
    ------
    CheckpointError
        If it cannot be made or written; the message ends with the advice. If `folder` holds other
        files than a checkpoint of ours, which stay.
    """
    part = None
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).exists():
            raise CheckpointError(
                f"{folder} holds other files; expected a new folder or a refrag-rag checkpoint. "
                "Choose another folder."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield part
        part.chmod(0o755)
        if folder.exists():
            old = part.with_suffix(".old")
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    except Exception as error:
        # safetensors and tokenizers wrap what the disk says, the latter in the class itself
        if isinstance(error, OSError | SafetensorError) or type(error) is Exception:
            raise CheckpointError(
                f"{folder} cannot be written ({error}); expected room and permission there. "
                f"{advice}"
            ) from error
        raise
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
