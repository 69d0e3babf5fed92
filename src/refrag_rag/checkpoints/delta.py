"""Delta checkpoints: what was trained, to be put together with a public base.

``delta.safetensors`` holds encoder, pooling, projector and the decoder's LoRA adapter: large
matrices of encoder and adapter in eight bits (see `groups`), everything else in fp16. Tensors of
the encoder that equal one of the base's are named in its header instead. ``refrag_config.json``
says what the base is, with checksums.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from refrag_rag.checkpoints.base import Base, sha256
from refrag_rag.checkpoints.cache import VARIABLE, cached
from refrag_rag.checkpoints.encoders import new_encoder
from refrag_rag.checkpoints.groups import restored
from refrag_rag.checkpoints.lora import merge, put_back
from refrag_rag.checkpoints.native import CARD, CONFIG, DECODER, ENCODER, below, beside, write
from refrag_rag.checkpoints.native import read as read_assembled
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    fill,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.checkpoints.policy import read_policies
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel

NAME = "delta"
DELTA = "delta.safetensors"
STEPS = ("reading the base", "reading its tokenizer", "filling", "writing")


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
        """Name of the folder in the cache, with the adapter merged or left out."""
        name = re.sub(r"[^\w.-]", "-", self.config.name).lstrip(".")[:60]
        return f"{name}-{self.key}{'' if merged else '-bare'}"


def find(folder: Path) -> Path | None:
    """Where the parts lie, if a folder claims to be of this layout."""
    return folder if (folder / DELTA).is_file() else None


def read(folder: Path, placement: Placement) -> RefragModel:
    """Load a delta checkpoint: put together in the cache when it is first used.

    Its policies are small, and are read where they lie: new ones need nothing put together again.

    Raises
    ------
    CheckpointError
        If the base is missing or another one, a file is damaged, or the cache cannot be written.
    InputError
        If the placement asks for a k that the model was not trained on.
    """
    apart = placement.adapter == "apart"
    found = assembled(folder, replace(placement, adapter=False) if apart else placement)
    model = read_assembled(found, placement)
    if apart:
        weights, _ = _read_delta(folder / DELTA, read_manifest(folder).digest)
        if adapter := below(weights, "adapter."):
            put_back(model.decoder, adapter)
    model.policies.update(read_policies(folder, chunk_width=model.config.chunk_width))
    return model


def assembled(folder: Path, placement: Placement | None = None) -> Path:
    """The ordinary checkpoint folder of a delta checkpoint, made if it is not in the cache.

    With the placement's ``adapter`` the LoRA adapter is merged into the decoder; without, the
    base's decoder is as it was, bit for bit.

    Raises
    ------
    CheckpointError
        See `read`.
    """
    placement = placement or Placement()
    manifest = read_manifest(folder)
    if placement.k is not None:
        manifest.config.with_k(placement.k)  # before anything is made
    name = manifest.folder_name(merged=placement.adapter is True)
    return cached(name, lambda target: _put_together(folder, target, manifest, placement))


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


def _put_together(folder: Path, target: Path, manifest: Manifest, placement: Placement) -> None:
    """Build the ordinary checkpoint beside `target` and rename it into place."""
    base = manifest.base.find(placement.base, local_files_only=placement.local_files_only)
    weights, shared = _read_delta(folder / DELTA, manifest.digest)
    with _bar(manifest.config.name) as step:
        step("reading the base")
        decoder = read_decoder(base, Placement(dtype="auto"))
        step("reading its tokenizer")
        own = read_tokenizer(base, decoder.config)
        first, second = (
            read_tokenizer(folder / part) if (folder / part / "tokenizer.json").is_file() else own
            for part in (ENCODER, DECODER)
        )
        step("filling")
        encoder = new_encoder(folder / ENCODER)
        model = build(manifest.config, encoder, decoder, (first, second))
        model.encoder.to(manifest.dtype)
        model.projector.to(manifest.dtype)
        theirs = decoder.state_dict()
        reused = {name: theirs[other] for name, other in shared.items() if other in theirs}
        fill(model.encoder.model, folder / DELTA, reused | below(weights, "encoder."))
        fill(model.projector, folder / DELTA, below(weights, "projector."))
        if model.encoder.pooling is not None:
            fill(model.encoder.pooling, folder / DELTA, below(weights, "pooling."))
        if placement.adapter is True:
            merge(decoder, below(weights, "adapter."))
            decoder.to(manifest.dtype)
        step("writing")
        with beside(target, advice=f"Set {VARIABLE} to another folder.") as part:
            write(model, part)
            if (folder / CARD).is_file():
                shutil.copyfile(folder / CARD, part / CARD)


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


@contextmanager
def _bar(name: str) -> Iterator[Callable[[str], None]]:
    """One bar over all steps, instead of those that transformers shows on standard error."""
    shape = "{desc} {bar} {elapsed}"
    with tqdm(total=len(STEPS), bar_format=shape) as bar, redirect_stderr(io.StringIO()):

        def step(what: str) -> None:
            bar.update(STEPS.index(what) - bar.n)
            bar.set_description(f"putting {name} together, once: {what}")

        yield step
        bar.update(len(STEPS) - bar.n)
