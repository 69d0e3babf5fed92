"""Delta checkpoints: what was trained, to be put together with a public base.

``delta.safetensors`` holds encoder, pooling, projector and the decoder's LoRA adapter: large
matrices of encoder and adapter in eight bits (see `groups`), everything else in fp16. Tensors of
the encoder that equal one of the base's are named in its header instead. ``refrag_config.json``
says what the base is, with checksums.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from refrag_rag.checkpoints.assembly import assemble
from refrag_rag.checkpoints.base import Base, sha256
from refrag_rag.checkpoints.cache import cached
from refrag_rag.checkpoints.card import model_card
from refrag_rag.checkpoints.groups import restored, rounded
from refrag_rag.checkpoints.lora import factors
from refrag_rag.checkpoints.native import CARD, CONFIG, ENCODER, beside, check_target
from refrag_rag.checkpoints.native import read as read_assembled
from refrag_rag.checkpoints.parts import Placement, read_decoder, read_tokenizer
from refrag_rag.checkpoints.policy import write_policies
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel
from refrag_rag.text.tokenization import description

NAME = "delta"
DELTA = "delta.safetensors"
LEAST = 2**14  # numbers of a matrix that is worth rounding
ROUNDED = ("encoder.", "adapter.")


@dataclass(frozen=True)
class Manifest:
    """``refrag_config.json`` of a delta checkpoint.

    Attributes
    ----------
    config
        Of the model that comes out.
    base
        What it is put together with.
    dtype
        Of the weights that come out.
    digest
        SHA-256 of ``delta.safetensors``.
    key
        Names all of this.
    """

    config: RefragConfig
    base: Base
    dtype: torch.dtype
    digest: str
    key: str

    def folder_name(self, *, merged: bool = True) -> str:
        """Name of the folder in the cache, with the adapter merged or beside the decoder."""
        name = re.sub(r"[^\w.-]", "-", self.config.name).lstrip(".")[:60]
        return f"{name}-{self.key}{'' if merged else '-apart'}"


def recognises(folder: Path) -> bool:
    """Whether a folder claims to be of this layout."""
    return (folder / DELTA).is_file()


def root(folder: Path) -> Path:
    """Where the parts lie."""
    return folder


def read(folder: Path, placement: Placement) -> RefragModel:
    """Load a delta checkpoint: put together in the cache when it is first used.

    Raises
    ------
    CheckpointError
        If the base is missing or another one, a file is damaged, or the cache cannot be written.
    InputError
        If the placement asks for a k that the model was not trained on.
    """
    return read_assembled(assembled(folder, placement), placement)


def assembled(folder: Path, placement: Placement | None = None) -> Path:
    """The ordinary checkpoint folder of a delta checkpoint, made if it is not in the cache.

    With the placement's ``adapter`` the LoRA adapter is merged into the decoder; without, the
    base's decoder is as it was, bit for bit, and the adapter lies beside it.

    Raises
    ------
    CheckpointError
        See `read`.
    """
    placement = placement or Placement()
    manifest = read_manifest(folder)
    if placement.k is not None:
        manifest.config.with_k(placement.k)  # before anything is made

    def build(target: Path) -> None:
        base = manifest.base.find(placement.base, local_files_only=placement.local_files_only)
        weights, shared = _read_delta(folder / DELTA, manifest.digest)
        assemble(
            folder, target, base=base, config=manifest.config, dtype=manifest.dtype,
            weights=weights, shared=shared, merged=placement.adapter,
        )  # fmt: skip

    return cached(manifest.folder_name(merged=placement.adapter), build)


def read_manifest(folder: Path) -> Manifest:
    """What a delta checkpoint says of itself.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        values = json.loads(text)
        about = values.pop("delta")
        dtype = getattr(torch, str(about["dtype"]))
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype {about['dtype']!r}")
        base, digest = about["base"], str(about["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read ({type(error).__name__}: {error}); expected a "
            "delta checkpoint's, with 'delta'. Download the checkpoint again."
        ) from error
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    config = RefragConfig.from_json(json.dumps(values))
    return Manifest(config, Base.from_json(base), dtype, digest, key)


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
    check_target(folder)
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
        for tokenizer, name in ((model.encoder.tokenizer, ENCODER), (model.tokenizer, "decoder")):
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


def _read_delta(path: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Float32 weights, and which of the encoder's are the base's."""
    try:
        if sha256(path) != digest:
            raise ValueError("its SHA-256 is not the one in refrag_config.json")
        with safe_open(path, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            shared = json.loads((file.metadata() or {}).get("shared", "{}"))
        return restored(stored), dict(shared)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be loaded ({error}). It is damaged: download the checkpoint again."
        ) from error


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
        for other, theirs in base.items():
            same = tensor.shape == theirs.shape and tensor.numel() >= LEAST
            if same and _same(tensor, theirs):
                found[name] = other
                break
    return found


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether they are equal in the coarser of their dtypes."""
    coarser = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(ours.to(theirs.device, coarser), theirs.to(coarser))


def _check_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Any], base: Base) -> None:
    wrong = [
        name
        for name in sorted({*ours, *theirs})
        if name not in ours
        or name not in theirs
        or ours[name].shape != theirs[name].shape
        or not _same(ours[name], theirs[name])
    ]
    if wrong:
        raise CheckpointError(
            f"The decoder is not {base.name} with a LoRA adapter: {len(wrong)} tensors differ "
            f"({', '.join(wrong[:3])}). A decoder that was trained as a whole is saved whole: "
            "save_pretrained(folder)."
        )
