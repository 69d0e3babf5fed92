"""A new, untrained model from any encoder and any decoder."""

import json
import logging
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from refrag_rag.checkpoints.encoders import first_layers, read_encoder
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    damaged,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import Chunking, Pooling, RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import LinearPooling
from refrag_rag.text.tokenization import same_vocabulary

SENTENCE_MODULES = "modules.json"
logger = logging.getLogger(__name__)


def compose(  # noqa: PLR0913 - the settings of a config, by name
    encoder: str | Path | int,
    decoder: str | Path,
    *,
    k: int = 16,
    window: int | None = None,
    pooling: Pooling | None = None,
    chunking: Chunking = "fixed",
    projector_width: int | None = None,
    chunk_sizes: tuple[int, ...] | None = None,
    pooling_width: int | None = None,
    name: str | None = None,
    **options: Any,
) -> RefragModel:
    """Put an encoder and a decoder together. The projector is new: train it before use.

    Parameters
    ----------
    encoder, decoder
        Folders or hub ids. The encoder may be a sentence-transformers model, of which the
        transformer is taken; a name without an owner is one of theirs. A number stands for a copy
        of the decoder's first so many layers. The decoder may be a GGUF file, whose weights are
        dequantised (extra ``gguf``).
    k, chunking, projector_width, chunk_sizes, pooling_width
        See `RefragConfig`.
    window
        Tokens that the encoder reads at once. Default: k, every chunk on its own.
    pooling
        Default: the sentence-transformers model's own where it fits, otherwise ``mean``.
    name
        Default: the names of the parts.
    **options
        As for `load`: ``dtype``, ``device``, ``device_map``, ``attn_implementation``; and, for both
        parts, ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

    Raises
    ------
    CheckpointError
        If a part cannot be loaded, or the decoder cannot be used.
    InputError
        If the settings do not fit together.
    """
    placement, hub = _split(options)
    window = window or k
    decoder_folder = resolve(decoder, **hub)
    decoder_model = read_decoder(decoder_folder, placement)
    second: PreTrainedTokenizerBase = read_tokenizer(decoder_folder, decoder_model.config)
    if isinstance(encoder, int):
        encoder_model, first, own, unit = first_layers(decoder_model, encoder), second, None, False
    else:
        encoder_folder, own, unit = sentence_modules(resolve(_full_name(encoder), **hub))
        encoder_model = read_encoder(encoder_folder, placement)
        first = read_tokenizer(encoder_folder)
    if pooling is None:
        fits = own == "mean" or (own == "cls" and window == k) or chunking == "passage"
        pooling = cast(Pooling, own) if own and fits else "mean"
    parts = [decoder] if isinstance(encoder, int) else [encoder, decoder]
    config = RefragConfig(
        name=name or "-".join(Path(str(part)).name for part in parts),
        k=k,
        window=window,
        pooling=pooling,
        chunking=chunking,
        projector_width=projector_width,
        chunk_sizes=chunk_sizes,
        pooling_width=pooling_width,
        normalize=unit and chunking == "passage",
        shared_vocabulary=same_vocabulary(first, second),
        encoder_width=encoder_model.config.hidden_size,
        decoder_width=decoder_model.get_input_embeddings().weight.shape[1],
    )
    model = build(config, encoder_model, decoder_model, (first, second))
    learned = model.encoder.pooling
    if isinstance(learned, LinearPooling):  # rotations are drawn on the CPU, in float32
        learned.cpu().float().start().to(model.device, encoder_model.dtype)
    return model


def _full_name(encoder: str | Path) -> str | Path:
    name = str(encoder)
    known = "/" in name or Path(name).exists()
    return encoder if known else f"sentence-transformers/{name}"


def _split(options: dict[str, Any]) -> tuple[Placement, dict[str, Any]]:
    """What is for loading parts, and what is for the hub."""
    placing = {"dtype", "device", "device_map", "attn_implementation"} & options.keys()
    hub = {name: value for name, value in options.items() if name not in placing}
    return Placement(exact=False, **{name: options[name] for name in placing}), hub


def sentence_modules(folder: Path) -> tuple[Path, str | None, bool]:
    """The transformer of a sentence-transformers folder, and how it pools.

    Returns
    -------
    tuple
        The transformer's folder (`folder` itself if it is an ordinary one); ``mean``, ``cls``,
        ``last`` or None where the model's own pooling is another or none; whether it normalises.

    Raises
    ------
    CheckpointError
        If the modules cannot be read, or there is no transformer among them.
    """
    path = folder / SENTENCE_MODULES
    if not path.is_file():
        return folder, None, False
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        places = {str(m["type"]).rpartition(".")[2]: folder / str(m["path"]) for m in modules}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise damaged(path, error) from error
    if "Transformer" not in places:
        raise CheckpointError(
            f"{folder} has the modules {', '.join(places)}; expected a Transformer among them. "
            "Pass the folder of an ordinary encoder."
        )
    if ignored := sorted(set(places) - {"Transformer", "Pooling", "Normalize"}):
        logger.warning("%s: modules %s are not used for chunk embeddings", folder, ignored)
    return places["Transformer"], _own_pooling(places.get("Pooling")), "Normalize" in places


def _own_pooling(folder: Path | None) -> str | None:
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder, error) from error
    for name, ours in (("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")):
        if settings.get(f"pooling_mode_{name}"):
            return ours
    return None
