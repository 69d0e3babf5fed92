"""Checkpoints of other projects that cannot be loaded as they are, rewritten as our own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from refrag_rag.checkpoints import arc, pisco, xrag
from refrag_rag.errors import InputError


def convert(
    folder: str | Path,
    out: str | Path,
    *,
    decoder: str | Path | None = None,
    encoder: str | Path | None = None,
    bridge: int | None = None,
    accept_license: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Rewrite a checkpoint of PISCO, CLaRa, xRAG or ARC-Encoder as one that `load` reads.

    Parameters
    ----------
    folder, out
        The checkpoint, and a new folder.
    decoder
        Of PISCO and CLaRa: folder or hub id of the base, if not the hub id that the config names.
        Of ARC-Encoder: folder or hub id of the decoder, which is not in the checkpoint.
    encoder
        Of xRAG: folder or hub id of its retriever, which is not in the checkpoint. Of ARC-Encoder:
        of a model with the encoder's tokenizer (Llama 3.2 3B).
    bridge
        Of ARC-Encoder, where it was trained with several decoders: which of them it is, from 0.
    accept_license
        Whether the licences that are shown are accepted; otherwise nothing is read or written.
    say
        Gets what is shown, line by line.

    Raises
    ------
    CheckpointError
        If files are missing, hold more than tensors or do not fit together, a part cannot be
        found, or the folder cannot be written.
    InputError
        If the licences are not accepted, or the other part is named.
    """
    folder, out = Path(folder), Path(out)
    if arc.find(folder):
        if decoder is None or encoder is None:
            raise InputError(
                "ARC-Encoder's folder has neither a decoder nor a tokenizer; expected --decoder, "
                "and --encoder with Llama 3.2's tokenizer."
            )
        options: dict[str, Any] = {"decoder": decoder, "encoder": encoder, "bridge": bridge}
        arc.convert(folder, out, **options, accept_license=accept_license, say=say)
        return
    if bridge is not None:
        raise InputError(f"bridge = {bridge!r}; expected it for ARC-Encoder only. Leave it out.")
    if not xrag.find(folder):
        if encoder is not None:
            raise InputError(
                f"encoder = {encoder!r}, but {folder} has no config.json of xRAG or ARC-Encoder "
                "(embedder_args, bridge_args, model_args); expected one, or no encoder."
            )
        pisco.convert(folder, out, decoder=decoder, accept_license=accept_license, say=say)
    elif encoder is None or decoder is not None:
        raise InputError("xRAG's folder has a decoder and no retriever; expected --encoder alone.")
    else:
        xrag.convert(folder, out, encoder=encoder, accept_license=accept_license, say=say)
