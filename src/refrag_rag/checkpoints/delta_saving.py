"""What a delta checkpoint is made of, and writing one; see `delta` for the layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from refrag_rag.checkpoints.base import Base, sha256
from refrag_rag.checkpoints.card import model_card
from refrag_rag.checkpoints.delta import DELTA
from refrag_rag.checkpoints.groups import rounded
from refrag_rag.checkpoints.lora import factors
from refrag_rag.checkpoints.native import CARD, CONFIG, DECODER, ENCODER, beside
from refrag_rag.checkpoints.parts import Placement, read_decoder, read_tokenizer
from refrag_rag.checkpoints.policy import write_policies
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel
from refrag_rag.text.tokenization import description

LEAST = 2**14  # numbers of a matrix that is worth rounding
ROUNDED = ("encoder.", "adapter.")


def save_delta(
    model: RefragModel,
    folder: Path,
    *,
    base: str | Path,
    revision: str | None = None,
    distribution: tuple[str, str] | None = None,
) -> None:
    """Write a delta checkpoint: small enough to share, and put together again by `load`.

    Large matrices of encoder and adapter are rounded to eight bits: measure what comes out.

    Parameters
    ----------
    model
        Its decoder is the base's, with or without a LoRA adapter.
    folder
        New, or an older checkpoint of ours.
    base
        The base's GGUF file, folder or hub id.
    revision
        Of the hub id.
    distribution
        Name and version of a Python package that carries the base's file.

    Raises
    ------
    CheckpointError
        If the decoder is not the base's, or the folder cannot be written.
    """
    place = resolve(base, revision=revision)
    of_hub = None if Path(base).exists() else (str(base), revision)
    about = Base.of(place, name=Path(base).name, repository=of_hub, distribution=distribution)
    adapter, original = factors(model.decoder)
    decoder = read_decoder(place, Placement(dtype="auto", device=model.device))
    theirs = decoder.state_dict()
    _check_same(original, theirs, about)
    encoder = model.encoder.model.state_dict()
    shared = _shared(encoder, theirs)
    weights = {f"encoder.{n}": t for n, t in encoder.items() if n not in shared}
    if model.encoder.pooling is not None:
        weights |= model.encoder.pooling.state_dict(prefix="pooling.")
    weights |= model.projector.state_dict(prefix="projector.") | adapter
    own = _features(read_tokenizer(place))
    with beside(folder) as part:
        save_file(_packed(weights), part / DELTA, metadata={"shared": json.dumps(shared)})
        model.encoder.model.config.save_pretrained(part / ENCODER)
        for tokenizer, name in ((model.encoder.tokenizer, ENCODER), (model.tokenizer, DECODER)):
            if _features(tokenizer) != own:
                tokenizer.save_pretrained(part / name)
        write_policies(model.policies, part)
        values = json.loads(model.config.to_json())
        values["delta"] = {
            "base": about.to_json(),
            "dtype": str(model.decoder.dtype).removeprefix("torch."),
            "sha256": sha256(part / DELTA),
        }
        (part / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (part / CARD).write_text(model_card(model), encoding="utf-8")


def _features(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """What a tokenizer must have for a prompt to become the same tokens, and to end at the same."""
    names = ("chat_template", "bos_token", "eos_token", "pad_token")
    return (description(tokenizer), *(getattr(tokenizer, name) for name in names))


def _packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.startswith(ROUNDED) and tensor.ndim > 1 and tensor.numel() >= LEAST:
            packed |= rounded(name, tensor)
        else:
            packed[name] = tensor.detach().half().cpu().contiguous()
    return packed


def _shared(encoder: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, str]:
    """Which of the encoder's tensors equal one of the base's, and which."""
    found = {}
    for name, tensor in encoder.items():
        if tensor.numel() >= LEAST:
            equal = (other for other, theirs in base.items() if _same(tensor, theirs))
            if other := next(equal, None):
                found[name] = other
    return found


def _same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether they are equal in the coarser of their dtypes."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return False
    coarser = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(ours.to(theirs.device, coarser), theirs.to(coarser))


def _check_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], base: Base) -> None:
    names = sorted({*ours, *theirs})
    wrong = [name for name in names if not _same(ours.get(name), theirs.get(name))]
    if wrong:
        raise CheckpointError(
            f"The decoder is not {base.name} with a LoRA adapter: {len(wrong)} tensors differ "
            f"({', '.join(wrong[:3])}). A decoder that was trained as a whole is saved whole: "
            "save_pretrained(folder)."
        )
