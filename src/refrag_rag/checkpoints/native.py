"""Our own layout: ``encoder/``, ``decoder/``, ``projector.safetensors``, ``refrag_config.json``."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import RefragConfig
from refrag_rag.encoder import ChunkEncoder
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel
from refrag_rag.projector import Projector

CONFIG, PROJECTOR, ENCODER, DECODER = (
    "refrag_config.json",
    "projector.safetensors",
    "encoder",
    "decoder",
)
logger = logging.getLogger(__name__)


def save(model: RefragModel, folder: Path) -> None:
    """Write a checkpoint. It is built beside `folder` and renamed into place when complete.

    Raises
    ------
    CheckpointError
        If the folder cannot be written, or exists and is no checkpoint of this layout.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).exists():
        raise CheckpointError(
            f"{folder} holds other files; expected a new folder or a refrag-rag checkpoint. "
            "Choose another folder."
        )
    with _beside(folder) as part:
        model.decoder.save_pretrained(part / DECODER)
        model.tokenizer.save_pretrained(part / DECODER)
        model.encoder.model.save_pretrained(part / ENCODER)
        model.encoder.tokenizer.save_pretrained(part / ENCODER)
        weights = {name: t.contiguous() for name, t in model.projector.state_dict().items()}
        save_file(weights, part / PROJECTOR)
        (part / CONFIG).write_text(model.config.to_json(), encoding="utf-8")


def load(  # noqa: PLR0913 - the options users know from from_pretrained
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> RefragModel:
    """Load a checkpoint of our own layout, in evaluation mode.

    Parameters
    ----------
    name_or_path
        Name of an embedded model (``tiny``), a folder, or a hub id.
    dtype
        Of all parts. Default: float32 on CPUs, as stored elsewhere.
    device, device_map
        Where to: one device, or a map of the decoder's modules (encoder and projector then
        follow its input embeddings).
    attn_implementation, revision, cache_dir, token, local_files_only
        As in ``from_pretrained`` of transformers.

    Raises
    ------
    CheckpointError
        If files are missing or do not fit together.
    """
    folder = resolve(
        name_or_path,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    for needed in (CONFIG, PROJECTOR, f"{ENCODER}/config.json", f"{DECODER}/config.json"):
        if not (folder / needed).is_file():
            raise CheckpointError(
                f"{folder} has no {needed}; expected {CONFIG}, {PROJECTOR}, {ENCODER}/ and "
                f"{DECODER}/. The folder is incomplete or of another layout."
            )
    config = RefragConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
    on_cpu = device_map is None and torch.device(device or "cpu").type == "cpu"
    dtype = dtype or (torch.float32 if on_cpu else "auto")
    options = {"dtype": dtype, "attn_implementation": attn_implementation}
    decoder = _part(AutoModelForCausalLM, folder / DECODER, device_map=device_map, **options)
    if device_map is None and device is not None:
        decoder = decoder.to(device)
    place = decoder.get_input_embeddings().weight.device
    encoder = _encoder(folder / ENCODER, dtype).to(place)
    projector = Projector(config.chunk_width, config.decoder_width, config.projector_width)
    _load_projector(projector, folder / PROJECTOR)
    model = RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder, _tokenizer(folder / ENCODER), config),
        projector=projector.to(place, decoder.dtype),
        decoder=decoder,
        tokenizer=_tokenizer(folder / DECODER),
    )
    return model.eval()


def _part(auto: Any, folder: Path, **options: Any) -> PreTrainedModel:
    try:
        model: PreTrainedModel = auto.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded ({type(error).__name__}: {error}). "
            "The checkpoint is damaged or of a newer architecture: download or save it again."
        ) from error
    return model


def _encoder(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    try:  # the pooling layer of BERT-like encoders would be unused, and untrained
        model = _part(AutoModel, folder, dtype=dtype, add_pooling_layer=False)
    except TypeError:
        model = _part(AutoModel, folder, dtype=dtype)
    return model


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"No tokenizer in {folder} ({error}); expected tokenizer.json."
        ) from error


def _load_projector(projector: Projector, path: Path) -> None:
    try:
        projector.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    except (RuntimeError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} does not fit the config ({error}). Save the model again as a whole."
        ) from error


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}).") from error
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            old = part.with_suffix(".old")
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
