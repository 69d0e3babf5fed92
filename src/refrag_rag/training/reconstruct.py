"""Stage 1: reconstruction. The decoder is frozen; n chunks in, their n·k tokens out, in one go.

``python -m refrag_rag.training.reconstruct --config small --out RUN`` (REFRAG, section 2.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.curricula import run_on_text
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentChunks
from refrag_rag.training.protocols import Lengths
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import TextSettings, check_trainable, freeze, start_model

STAGE = "reconstruct"


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings(TextSettings):
    """How a model is composed, and what is rebuilt."""

    encoder: str | None = setting(None, "folder or hub id of an encoder, for a new model")
    decoder: str | None = setting(None, "folder or hub id of a decoder, for a new model")
    k: int = setting(16, "of a new model: tokens of a chunk")
    window: int | None = setting(None, "of a new model: tokens the encoder reads at once")
    projector_width: int | None = setting(None, "of a new model: hidden units of the projector")


def run(settings: ReconstructSettings) -> None:
    """Train encoder and projector against the frozen decoder."""
    torch.manual_seed(settings.seed)
    model = _start(settings)
    freeze(model, [model.encoder, model.projector])

    def rows(documents: Documents, lengths: Lengths) -> DocumentChunks:
        return DocumentChunks(documents, model, lengths, batch_size=settings.batch_size)

    run_on_text(model, settings, STAGE, rows)


def _start(settings: ReconstructSettings) -> RefragModel:
    if (settings.encoder is None) != (settings.decoder is None):
        raise InputError("A new model needs an encoder and a decoder; expected both or neither.")
    if settings.encoder is None or settings.decoder is None:
        if settings.start is None:
            raise InputError(
                "No model to start from; expected --encoder and --decoder for a new one, or "
                "--start."
            )
        return start_model(settings, settings.start)
    model = RefragModel.compose(
        settings.encoder,
        settings.decoder,
        k=settings.k,
        window=settings.window,
        projector_width=settings.projector_width,
    )
    check_trainable(model)
    return model.train()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train encoder and projector."""
    run(parse(ReconstructSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
