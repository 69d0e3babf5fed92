"""A new, untrained model from any encoder and any decoder."""

from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from refrag_rag.checkpoints.parts import (
    Placement,
    read_decoder,
    read_encoder,
    read_tokenizer,
    sentence_modules,
)
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import Chunking, Pooling, RefragConfig
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder, build_pooling
from refrag_rag.model.projector import Projector
from refrag_rag.text.tokenization import same_vocabulary


def compose(  # noqa: PLR0913 - the settings of a config, by name
    encoder: str | Path,
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
        transformer is taken; a name without an owner is one of theirs. The decoder may be a GGUF
        file, whose weights are dequantised (extra ``gguf``).
    k, chunking, projector_width, chunk_sizes, pooling_width
        See `RefragConfig`.
    window
        Tokens that the encoder reads at once. Default: k, every chunk on its own.
    pooling
        Default: the sentence-transformers model's own where it fits, otherwise ``mean``.
    name
        Default: the names of both.
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
    encoder_folder, own = sentence_modules(resolve(_full_name(encoder), **hub))
    decoder_folder = resolve(decoder, **hub)
    window = window or k
    if pooling is None:
        fits = own == "mean" or (own == "cls" and window == k)
        pooling = cast(Pooling, own) if fits else "mean"
    decoder_model = read_decoder(decoder_folder, placement)
    place = decoder_model.get_input_embeddings().weight.device
    encoder_model = read_encoder(encoder_folder, placement).to(place)
    tokenizers: list[PreTrainedTokenizerBase] = [
        read_tokenizer(encoder_folder),
        read_tokenizer(decoder_folder, decoder_model.config),
    ]
    config = RefragConfig(
        name=name or f"{Path(str(encoder)).name}-{Path(str(decoder)).name}",
        k=k,
        window=window,
        pooling=pooling,
        chunking=chunking,
        projector_width=projector_width,
        chunk_sizes=chunk_sizes,
        pooling_width=pooling_width,
        shared_vocabulary=same_vocabulary(*tokenizers),
        encoder_width=encoder_model.config.hidden_size,
        decoder_width=decoder_model.get_input_embeddings().weight.shape[1],
    )
    projector = Projector(config.chunk_width, config.decoder_width, config.projector_width)
    learned = build_pooling(config)
    if learned is not None:
        learned.start().to(place, encoder_model.dtype)
    return RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder_model, tokenizers[0], config, learned),
        projector=projector.to(place, decoder_model.dtype),
        decoder=decoder_model,
        tokenizer=tokenizers[1],
    ).eval()


def _full_name(encoder: str | Path) -> str | Path:
    name = str(encoder)
    known = "/" in name or Path(name).exists()
    return encoder if known else f"sentence-transformers/{name}"


def _split(options: dict[str, Any]) -> tuple[Placement, dict[str, Any]]:
    """What is for loading parts, and what is for the hub."""
    placing = {"dtype", "device", "device_map", "attn_implementation"} & options.keys()
    chosen = {name: options[name] for name in placing}
    hub = {name: value for name, value in options.items() if name not in placing}
    return Placement(**{**chosen, "exact": False}), hub
