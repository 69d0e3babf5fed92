"""Checkpoints of other projects that cannot be loaded as they are, rewritten as our own."""

from collections.abc import Callable
from pathlib import Path

from refrag_rag.checkpoints import pisco, xrag
from refrag_rag.errors import InputError


def convert(
    folder: str | Path,
    out: str | Path,
    *,
    decoder: str | Path | None = None,
    encoder: str | Path | None = None,
    accept_license: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Rewrite a checkpoint of PISCO, CLaRa or xRAG as one that `load` reads.

    Parameters
    ----------
    folder, out
        The checkpoint, and a new folder.
    decoder
        Of PISCO and CLaRa: folder or hub id of the base, if not the hub id that the config names.
    encoder
        Of xRAG: folder or hub id of its retriever, which is not in the checkpoint.
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
    if not xrag.find(folder):
        if encoder is not None:
            raise InputError(f"encoder = {encoder!r}; expected it for xRAG only. Leave it out.")
        pisco.convert(folder, out, decoder=decoder, accept_license=accept_license, say=say)
    elif encoder is None or decoder is not None:
        raise InputError("xRAG's folder has a decoder and no retriever; expected --encoder alone.")
    else:
        xrag.convert(folder, out, encoder=encoder, accept_license=accept_license, say=say)
