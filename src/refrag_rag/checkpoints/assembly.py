"""A delta checkpoint and its base, put together into an ordinary checkpoint folder."""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from refrag_rag.checkpoints.cache import VARIABLE
from refrag_rag.checkpoints.lora import merge, write_factors
from refrag_rag.checkpoints.native import CARD, DECODER, ENCODER, beside, write
from refrag_rag.checkpoints.parts import Placement, new_encoder, read_decoder, read_tokenizer
from refrag_rag.checkpoints.policy import read_policies
from refrag_rag.config import RefragConfig
from refrag_rag.errors import CheckpointError
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder, build_pooling
from refrag_rag.model.projector import build_projector

STEPS = {"reading the base": 6, "reading its tokenizer": 3, "filling": 1, "writing": 2}  # seconds


def assemble(
    folder: Path,
    target: Path,
    *,
    base: Path,
    config: RefragConfig,
    dtype: torch.dtype,
    weights: Mapping[str, Tensor],
    shared: Mapping[str, str],
    merged: bool,
) -> None:
    """Build beside `target` and rename into place.

    Parameters
    ----------
    folder
        The delta checkpoint.
    base
        GGUF file or folder.
    dtype
        Of what is written; a decoder without its adapter stays as the base has it.
    weights
        Float32 tensors of the delta.
    shared
        For tensors of the encoder that are the base's: their names there.
    merged
        Whether the LoRA adapter becomes part of the decoder, or lies beside it.

    Raises
    ------
    CheckpointError
        If the parts do not fit together, or the target cannot be written.
    """
    with _bar(config.name) as step:
        step("reading the base")
        with redirect_stderr(io.StringIO()):  # a bar of its own that cannot be turned off
            decoder = read_decoder(base, Placement(dtype="auto"))
        step("reading its tokenizer")
        own_tokenizer = read_tokenizer(base, decoder.config)
        tokenizers = [
            read_tokenizer(folder / part) if (folder / part / "tokenizer.json").is_file()
            else own_tokenizer
            for part in (DECODER, ENCODER)
        ]  # fmt: skip
        step("filling")
        theirs = decoder.state_dict()
        encoder = new_encoder(folder / ENCODER)
        own = {name: theirs[other] for name, other in shared.items() if other in theirs}
        _fill(encoder, own | _below(weights, "encoder."), "encoder")
        projector = build_projector(config, encoder=encoder.config, decoder=decoder.config)
        _fill(projector, _below(weights, "projector."), "projector")
        pooling = build_pooling(config)
        if pooling is not None:
            _fill(pooling, _below(weights, "pooling."), "pooling")
            pooling.to(dtype)
        adapter = _below(weights, "adapter.")
        if merged:
            merge(decoder, adapter)
            decoder.to(dtype)
        model = RefragModel(
            config=config,
            encoder=ChunkEncoder(encoder.to(dtype), tokenizers[1], config, pooling),
            projector=projector.to(dtype),
            decoder=decoder,
            tokenizer=tokenizers[0],
        )
        model.policies.update(read_policies(folder, chunk_width=config.chunk_width))
        step("writing")
        with beside(target, advice=f"Set {VARIABLE} to another folder.") as part:
            write(model, part)
            if adapter and not merged:
                write_factors(adapter, part)
            if (folder / CARD).is_file():
                shutil.copyfile(folder / CARD, part / CARD)


def _fill(module: nn.Module, weights: Mapping[str, Tensor], part: str) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"The delta's {part} does not fit its config: {error} Download the checkpoint again."
        ) from error


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


@contextmanager
def _bar(name: str) -> Iterator[Callable[[str], None]]:
    """One bar over all steps, instead of one for each that transformers shows."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    done: list[str] = []
    with tqdm(total=sum(STEPS.values()), bar_format="{desc} {bar} {elapsed}") as bar:

        def step(what: str) -> None:
            bar.update(sum(STEPS[one] for one in done) - bar.n)
            bar.set_description(f"putting {name} together, once: {what}")
            done.append(what)

        try:
            yield step
            bar.update(bar.total - bar.n)
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
