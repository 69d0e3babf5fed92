"""Checkpoints of PISCO (arXiv 2501.16075) and CLaRa (arXiv 2511.18659), rewritten as our own.

Both are a decoder with two LoRA adapters: with one it reads a document behind which memory tokens
stand, whose last states are the vectors; with the other it answers from them. Their files are
pickles: they are read here, as tensors only, and nowhere else.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from refrag_rag.checkpoints.encoders import first_layers
from refrag_rag.checkpoints.lora import merge, put_back
from refrag_rag.checkpoints.native import save
from refrag_rag.checkpoints.parts import Placement, build, read_decoder, read_tokenizer
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError, InputError
from refrag_rag.text.tokenization import backend

CONFIG, ADAPTERS, LAYERS = "config.json", "adapters.pth", "decoder_first_last_layers.pth"
ENCODING, DECODING = "encoder_adapter", "decoder_adapter"
SCALE = 2.0  # lora_alpha = 2 r, which no file says
REFUSED = "Nothing was written; expected --accept-license, if you accept them."
SEPARATOR, START = "<SEP>", "<ENC>"
LICENCES = {
    "COCOM": "PISCO: its metadata say CC-BY-4.0, the text of its card CC-BY-NC.",
    "CLaRa": "CLaRa: Apple's licence, for research only.",
}


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's config says.

    Attributes
    ----------
    kind
        ``COCOM`` (PISCO) or ``CLaRa``.
    base
        Name of the decoder.
    rate
        Tokens a vector.
    window
        Tokens that the compressor reads at once.
    memory
        Names of the memory tokens, one a vector of a window.
    rank
        Of the adapters.
    """

    kind: str
    base: str
    rate: int
    window: int
    memory: tuple[str, ...]
    rank: int


def convert(
    folder: Path,
    out: Path,
    *,
    decoder: str | Path | None,
    accept_license: bool,
    say: Callable[[str], object],
) -> None:
    """Put base and adapters together; see `refrag_rag.checkpoints.convert`.

    The base is then held twice: as decoder, with its adapter beside it, and as encoder, into which
    the other adapter is merged.
    """
    settings = _settings(folder / CONFIG)
    base = str(settings.base if decoder is None else decoder)
    say(LICENCES[settings.kind])
    say(f"The licence of the base, {base}, holds too. Read both before you use or share the model.")
    if not accept_license:
        raise InputError(REFUSED)
    place = _base(base, named=decoder is None)
    say(f"Reading {ADAPTERS} and {LAYERS}: pickles, of which tensors are taken and nothing else.")
    adapters, layers = _tensors(folder / ADAPTERS), _tensors(folder / LAYERS)
    tokenizers = _tokenizers(place, settings)
    model = read_decoder(place, Placement(dtype="auto"))
    _fill(model, layers, tokens=len(tokenizers[1]), source=folder / LAYERS)
    encoder = first_layers(model, model.config.get_text_config().num_hidden_layers)
    for part, name in ((encoder, ENCODING), (model, DECODING)):
        factors = _factors(adapters, name, settings, source=folder / ADAPTERS)
        if part is encoder:
            merge(part, {key.removeprefix("model."): one for key, one in factors.items()})
        else:
            put_back(part, factors)
    if more := sorted(adapters.keys() - {ENCODING, DECODING}):
        say(f"Left out: {', '.join(more)}.")
    config = _config(folder, settings, model)
    say(f"Writing {out}.")
    save(build(config, encoder, model, tokenizers), out)


def _settings(path: Path) -> Settings:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        kind, window, rate = given["model_type"], given["doc_max_length"], given["compr_rate"]
        if kind not in LICENCES:
            raise ValueError(f"model_type {kind!r}, not {' or '.join(LICENCES)}")
        if kind == "COCOM" and given.get("compr_model_name") is not None:
            raise ValueError("a compressor of another architecture, compr_model_name")
        if not (given.get("sep") and given.get("lora", True)) or given.get("kbtc_training"):
            raise ValueError("sep or lora off, or kbtc_training on")
        if not 0 < rate <= window:
            raise ValueError(f"compr_rate {rate} and doc_max_length {window}")
        count = window // rate
        alike = not given.get("different_mem_tokens")
        memory = ("<MEM>",) * count if alike else tuple(f"<MEM{i}>" for i in range(count))
        return Settings(kind, given["decoder_model_name"], rate, window, memory, given["lora_r"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be used ({type(error).__name__}: {error}); expected the config of "
            "PISCO or CLaRa, with a compressor that is the decoder with another adapter, or a "
            "folder of xRAG or ARC-Encoder."
        ) from error


def _base(name: str, *, named: bool) -> Path:
    """Where the base is; a path that a config names is not followed."""
    try:
        if named and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise CheckpointError("it is no hub id")
        return resolve(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"The base {name!r} cannot be had ({error}); expected a folder or hub id of the "
            "decoder that the adapters were trained on. Pass --decoder."
        ) from error


def _tensors(path: Path) -> dict[str, Any]:
    """Tensors by name, or groups of them."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping):
            raise pickle.UnpicklingError(f"a {type(found).__name__}")
        for one in found.values():
            parts = one.values() if isinstance(one, Mapping) else [one]
            if odd := [part for part in parts if not isinstance(part, Tensor)]:
                raise pickle.UnpicklingError(f"a {type(odd[0]).__name__}")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read ({first}); expected tensors by name and nothing else. Nothing "
            "of it was run. Download it again, from its authors."
        ) from error
    return {str(name): one for name, one in found.items()}


def _tokenizers(place: Path, settings: Settings) -> tuple[Any, Any]:
    """The encoder's, which puts the memory tokens behind a window, and the decoder's."""
    decoder = read_tokenizer(place)
    if decoder.bos_token is None or decoder.eos_token is None:
        raise CheckpointError(
            f"The tokenizer of {place} has no bos or eos token, between which documents stand; "
            "expected one that has both. Pass another --decoder."
        )
    names = [*dict.fromkeys(settings.memory), "<AE>", START, SEPARATOR]
    decoder.add_tokens(names, special_tokens=True)
    own = Tokenizer.from_str(backend(decoder).to_str())
    around = [START, decoder.bos_token, "$A", decoder.eos_token, *settings.memory]
    ids = [(one, decoder.convert_tokens_to_ids(one)) for one in sorted({*around} - {"$A"})]
    own.post_processor = TemplateProcessing(single=around, pair=None, special_tokens=ids)
    ends = {"bos_token": decoder.bos_token, "eos_token": decoder.eos_token}
    return PreTrainedTokenizerFast(tokenizer_object=own, **ends), decoder


def _fill(model: PreTrainedModel, layers: Mapping[str, Any], *, tokens: int, source: Path) -> None:
    """Resize the decoder to its tokens, and put in the embeddings that were saved with them."""
    model.resize_token_embeddings(tokens, mean_resizing=False)
    own = model.state_dict()
    wanted = {name for name in own if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    if model.config.get_text_config().tie_word_embeddings:
        wanted -= {"lm_head.weight"} - layers.keys()
    shapes = {name: tuple(own[name].shape) for name in wanted}
    found = {n: tuple(t.shape) if isinstance(t, Tensor) else None for n, t in layers.items()}
    if shapes != found:
        raise CheckpointError(
            f"{source} has {found}, the base with {tokens} tokens {shapes}; expected the base that "
            "it was trained on. Pass --decoder."
        )
    model.load_state_dict(dict(layers), strict=False)


def _factors(
    adapters: Mapping[str, Any], name: str, settings: Settings, *, source: Path
) -> dict[str, Tensor]:
    """An adapter as `lora.merge` takes it, scaling included."""
    adapter = adapters.get(name)
    if not isinstance(adapter, Mapping) or not adapter:
        raise CheckpointError(
            f"{source} has {', '.join(adapters) or 'nothing'}; expected {ENCODING} and {DECODING}."
        )
    factors: dict[str, Tensor] = {}
    for key, tensor in adapter.items():
        place = key.removeprefix("base_model.model.").replace(f".{name}.", ".")
        module, _, kind = place.removesuffix(".weight").rpartition(".lora_")
        rank = tensor.shape[{"A": 0, "B": 1}.get(kind, 0)] if tensor.ndim == 2 else None
        if not module or kind not in ("A", "B") or rank != settings.rank:
            raise CheckpointError(
                f"{source} has {name} {key} of shape {tuple(tensor.shape)}; expected factors "
                f"lora_A and lora_B of rank {settings.rank}."
            )
        exact = tensor.float()
        factors[f"{module}.{kind}"] = exact if kind == "A" else SCALE * exact.T
    return factors


def _config(folder: Path, settings: Settings, model: PreTrainedModel) -> RefragConfig:
    width = model.get_input_embeddings().weight.shape[1]
    return RefragConfig(
        name=folder.absolute().name,
        k=settings.rate,
        window=settings.window,
        chunking="even",
        pooling="memory",
        projector="identity",
        boundary=("", SEPARATOR),
        shared_vocabulary=True,
        encoder_width=width,
        decoder_width=width,
        policy="none",  # trained on vectors alone
    )
