"""Checkpoints of ARC-Encoder (arXiv 2510.20535): a compressor for a decoder that is not changed.

They hold encoder and bridge. The encoder is a Llama without its last layers; its tokenizer and the
decoder are those of their makers. Settings and names are those of the authors' code and released
configurations.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModel, LlamaConfig

from refrag_rag.checkpoints.native import save
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    damaged,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.checkpoints.pisco import REFUSED
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError, InputError
from refrag_rag.model import RefragModel
from refrag_rag.text.tokenization import same_vocabulary

WINDOW = 2048  # tokens read at once; ours: the authors' inputs are shorter
LICENCE = (
    "ARC-Encoder: CC-BY-4.0; made from Llama 3.2 3B, whose licence holds too, and so does the "
    "decoder's."
)
NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
INTERLEAVED = ("attention.wq", "attention.wk")
SINGLE = "0"  # how the bridge is called where there is one


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's config says; `model` are the arguments of its Llama."""

    model: dict[str, Any]
    layers: int
    rate: int


def find(folder: Path) -> bool:
    """Whether a folder is of this layout."""
    return {"embedder_args", "bridge_args"} <= _config(folder).keys()


def convert(
    folder: Path,
    out: Path,
    *,
    decoder: str | Path,
    encoder: str | Path,
    bridge: int | None,
    accept_license: bool,
    say: Callable[[str], object],
) -> None:
    """Put encoder, bridge and decoder together; see `refrag_rag.checkpoints.convert`."""
    settings = _settings(folder)
    say(LICENCE)
    if not accept_license:
        raise InputError(REFUSED)
    shapes = _shapes(folder)
    own = _bridge(shapes, bridge, folder)
    _check_layers(shapes, settings, folder)
    tokenizers = read_tokenizer(resolve(encoder)), read_tokenizer(resolve(decoder))
    if len(tokenizers[0]) != settings.model["vocab_size"]:
        raise CheckpointError(
            f"The tokenizer of {encoder} has {len(tokenizers[0])} tokens, the encoder "
            f"{settings.model['vocab_size']}; expected Llama 3.2's. Pass another --encoder."
        )
    model = _build(folder, settings, tokenizers, read_decoder(resolve(decoder), _AS_STORED), own)
    model.projector.float()  # as it is stored, whatever the decoder's dtype
    filled = set()
    with torch.no_grad():
        for place, name, tensor in _tensors(folder, settings, own):
            _copy(model, place, name, tensor, folder)
            filled.add((place, name))
    _check_whole(model, filled, folder)
    say(f"Writing {out}.")
    save(model, out)


_AS_STORED = Placement(dtype="auto")


def _config(folder: Path) -> dict[str, Any]:
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}


def _settings(folder: Path) -> Settings:
    try:
        given = _config(folder)
        args, sizes = given["embedder_args"], given["model_args"]
        pooling, rates = args["pooling_module"], args["compress_rates"]
        kind = (pooling["pool_type"], pooling["where"], args["causal_embedder"])
        if kind != ("mean_pooled_queries", "before", False) or not args["cont_tok"]:
            raise ValueError(f"pooling {kind}, cont_tok {args['cont_tok']}")
        if given["bridge_args"]["bridge_type"] not in ("mlp", "multi_module"):
            raise ValueError(f"bridge_type {given['bridge_args']['bridge_type']}")
        if sizes["head_dim"] % 4:
            raise ValueError(f"head_dim {sizes['head_dim']}")
        if len(rates) != 1 or rates[0] >= 0 or args.get("memory_tokens"):
            raise ValueError(f"compress_rates {rates}, which is not one rate in the last layer")
        model = {
            "vocab_size": sizes["vocab_size"],
            "hidden_size": sizes["dim"],
            "intermediate_size": sizes["hidden_dim"],
            "num_attention_heads": sizes["n_heads"],
            "num_key_value_heads": sizes["n_kv_heads"],
            "head_dim": sizes["head_dim"],
            "rms_norm_eps": float(sizes["norm_eps"]),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(sizes["rope_theta"])},
            "num_hidden_layers": sizes["n_layers"] - args["n_truncated_layers"],
            "max_position_embeddings": WINDOW,
        }
        return Settings(model, model["num_hidden_layers"], -rates[0])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be used ({type(error).__name__}: {error}); expected "
            "embedder_args, bridge_args and model_args of a released ARC-Encoder."
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of all tensors, by name."""
    found: dict[str, list[int]] = {}
    for path in _files(folder):
        try:
            with safe_open(path, "pt") as file:
                found |= {n: file.get_slice(n).get_shape() for n in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error
    if not found:
        raise CheckpointError(f"{folder} has no safetensors; expected encoder and bridge in some.")
    return found


def _bridge(shapes: dict[str, list[int]], wanted: int | None, folder: Path) -> str:
    """The name of the bridge: its number, or `SINGLE` where it has none."""
    layers = [n for n in shapes if n.startswith("bridge_module.") and ".layer1." in n]
    known = sorted({n.split(".")[1] if n.count(".") > 2 else SINGLE for n in layers})
    if wanted is None and len(known) == 1:
        return known[0]
    if str(wanted) not in known:
        raise CheckpointError(
            f"bridge = {wanted}; {folder} has the bridges {', '.join(known) or 'none'}, one for "
            "each decoder that it was trained with. Pass --bridge with one of these numbers."
        )
    return str(wanted)


def _check_layers(shapes: dict[str, list[int]], settings: Settings, folder: Path) -> None:
    start = "embedder.layers."
    count = len({n.removeprefix(start).split(".")[0] for n in shapes if n.startswith(start)})
    if count != settings.layers:
        raise CheckpointError(
            f"{folder} has {count} layers of the encoder, its config says {settings.layers} "
            "(n_layers less n_truncated_layers); expected the same. Download it again."
        )


def _build(
    folder: Path, settings: Settings, tokenizers: tuple[Any, Any], decoder: Any, bridge: str
) -> RefragModel:
    """The model, its encoder and bridge still to be filled."""
    shapes = _shapes(folder)
    hidden, output = (shapes[_bridge_name(shapes, bridge, n)] for n in ("layer1", "layer2"))
    width = decoder.get_input_embeddings().weight.shape[1]
    if output[0] != width:
        raise CheckpointError(
            f"The bridge gives vectors of {output[0]} numbers, the decoder reads {width}; expected "
            "the decoder that it was trained for. Pass another --decoder or --bridge."
        )
    shared = same_vocabulary(*tokenizers)
    config = RefragConfig(
        name=folder.absolute().name,
        k=settings.rate,
        window=WINDOW - WINDOW % settings.rate,
        chunking="levelled",
        pooling="queries",
        mask="bidirectional",
        projector="linear",
        projector_width=hidden[0],
        shared_vocabulary=shared,
        chunked_by="decoder" if shared else "encoder",
        encoder_width=settings.model["hidden_size"],
        decoder_width=width,
        policy="none",  # trained on vectors alone
    )
    encoder = AutoModel.from_config(LlamaConfig(**settings.model), dtype=torch.float32)
    return build(config, encoder, decoder, tokenizers)


def _bridge_name(shapes: dict[str, list[int]], bridge: str, layer: str) -> str:
    numbered = f"bridge_module.{bridge}.{layer}.weight"
    return numbered if numbered in shapes else f"bridge_module.{layer}.weight"


def _tensors(folder: Path, settings: Settings, bridge: str) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor with where it belongs and its name there, one in memory at a time."""
    for path in _files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                place = _place(name, bridge)
                if place is None:
                    continue
                tensor = file.get_tensor(name)
                if name.removesuffix(".weight").endswith(INTERLEAVED):
                    tensor = _in_halves(tensor, settings.model["head_dim"])
                yield *place, tensor


def _place(name: str, bridge: str) -> tuple[str, str] | None:
    """Which part a tensor belongs to, and its name there; None for what answers do not need.

    That is ``rec_tok``, which asks for the text itself, and what belongs to another decoder.
    """
    part, _, rest = name.removesuffix(".weight").partition(".")
    number = next((one for one in rest.split(".") if one.isdigit()), bridge)
    other = number != bridge and not rest.startswith("layers.")
    rest = rest if rest.startswith("layers.") else rest.replace(f".{number}", "")
    rest = rest.removeprefix(f"{number}.")
    if part == "bridge_module" and rest in ("layer1", "layer2"):
        return None if other else ("projector", {"layer1": "hidden", "layer2": "output"}[rest])
    if part == "embedder" and rest in ("cont_tok", "rec_tok"):
        return None if other or rest == "rec_tok" else ("pooling", "ending")
    if part == "embedder" and rest == "tok_embeddings":
        return "encoder", "embed_tokens"
    if part == "embedder" and rest.startswith("layers."):
        layer, _, inner = rest.removeprefix("layers.").partition(".")
        if inner in NAMES:
            return "encoder", f"layers.{layer}.{NAMES[inner]}"
    raise CheckpointError(
        f"The tensor {name} has no place in an ARC-Encoder; expected encoder, bridges and their "
        "tokens alone. Download the checkpoint again."
    )


def _check_whole(model: RefragModel, filled: set[tuple[str, str]], folder: Path) -> None:
    wanted = {("projector", "hidden"), ("projector", "output"), ("pooling", "ending")}
    names = {name.removesuffix(".weight") for name in model.encoder.model.state_dict()} - {"norm"}
    missing = wanted.union(("encoder", name) for name in names) - filled
    if missing:
        part, name = min(missing)
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors, such as {name} of the {part}; expected all "
            "of encoder and bridge. Download it again."
        )


def _in_halves(weight: Any, size: int) -> Any:
    """Rows whose rotary positions turn neighbours, as transformers has them: turned by halves."""
    return weight.unflatten(0, (-1, size // 2, 2)).transpose(1, 2).flatten(0, 2)


def _copy(model: RefragModel, part: str, name: str, tensor: Tensor, folder: Path) -> None:
    parts: dict[str, Any] = {
        "encoder": model.encoder.model,
        "projector": model.projector,
        "pooling": model.encoder.pooling,
    }
    try:
        found: Any = parts[part]
        for step in name.split("."):
            found = getattr(found, step)
        target: Any = found.weight if isinstance(found, nn.Module) else found
        given = tensor.flatten() if part == "pooling" else tensor
        if given.shape != target.shape:
            raise RuntimeError(f"expected {tuple(target.shape)}")
        target.copy_(given)
    except (AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: {name} of shape {tuple(tensor.shape)} has no such place in the {part} "
            f"that its config describes ({error}). Download it again."
        ) from error
