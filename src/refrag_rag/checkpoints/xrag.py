"""Checkpoints of xRAG (arXiv 2405.13792): a decoder with a projector of its retriever's vectors.

The retriever is another model. One vector stands for a passage: its last token's state, not
normalised, of at most 180 tokens.
"""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from refrag_rag.checkpoints.compose import sentence_modules
from refrag_rag.checkpoints.encoders import read_encoder
from refrag_rag.checkpoints.native import save
from refrag_rag.checkpoints.parts import (
    Placement,
    build,
    damaged,
    fill,
    read_decoder,
    read_tokenizer,
)
from refrag_rag.checkpoints.pisco import REFUSED
from refrag_rag.checkpoints.resolve import resolve
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError, InputError
from refrag_rag.text.tokenization import same_vocabulary

LONGEST = 180  # tokens of a passage, as the authors' evaluation cuts it
KIND = "mlp2x_gelu"
NAMES = {"0": "hidden", "2": "output"}
LICENCE = (
    "xRAG: the licence is the one on the checkpoint's page. Its retriever, SFR-Embedding-Mistral, "
    "is CC-BY-NC-4.0: not for commercial use."
)


def find(folder: Path) -> bool:
    """Whether a folder is of this layout."""
    return _width(folder) is not None


def convert(
    folder: Path,
    out: Path,
    *,
    encoder: str | Path,
    accept_license: bool,
    say: Callable[[str], object],
) -> None:
    """Put decoder, projector and retriever together; see `refrag_rag.checkpoints.convert`."""
    say(LICENCE)
    if not accept_license:
        raise InputError(REFUSED)
    projector = _projector(folder)
    place, _, _ = sentence_modules(resolve(encoder))
    taken = Placement(dtype="auto", exact=False)  # the projector lies among the decoder's tensors
    retriever, decoder = read_encoder(place, taken), read_decoder(folder, taken)
    width = retriever.config.hidden_size
    if width != _width(folder):
        raise CheckpointError(
            f"The retriever {encoder} is {width} wide, the checkpoint reads {_width(folder)}; "
            "expected the one that it was trained with. Pass another --encoder."
        )
    tokenizers = read_tokenizer(place), read_tokenizer(folder)
    config = RefragConfig(
        name=folder.absolute().name,
        k=LONGEST,
        window=LONGEST,
        chunking="passage",
        pooling="last",
        shared_vocabulary=same_vocabulary(*tokenizers),
        encoder_width=width,
        decoder_width=decoder.get_input_embeddings().weight.shape[1],
        policy="none",  # trained on vectors alone
    )
    model = build(config, retriever, decoder, tokenizers)
    fill(model.projector, folder, projector)
    say(f"Writing {out}.")
    save(model, out)


def _width(folder: Path) -> int | None:
    """Of the retriever's vectors, if the config has one."""
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, width = given.get("projector_type"), given.get("retriever_hidden_size")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(width, int) and kind != KIND:
        raise CheckpointError(
            f"{folder} has projector_type {kind!r}; expected xRAG's {KIND}. No other is read."
        )
    return width if isinstance(width, int) else None


def _projector(folder: Path) -> dict[str, Tensor]:
    """Its tensors, by our names."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.startswith("projector."):
                        layer, kind = name.split(".")[-2:]
                        found[f"{NAMES.get(layer, layer)}.{kind}"] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error
    return found
