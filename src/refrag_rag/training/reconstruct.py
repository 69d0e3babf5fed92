"""Stage 1: reconstruction. The decoder is frozen; n chunks in, their n·k tokens out, in one go.

With an adapter (``--lora``), this moves too.

``python -m refrag_rag.training.reconstruct --config small --out RUN`` (REFRAG, section 2.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from accelerate import PartialState

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.training.curricula import run_on_text
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentChunks
from refrag_rag.training.protocols import Lengths
from refrag_rag.training.readable_start import start_readable
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import TextSettings, check_trainable, set_moving, start_model

STAGE = "reconstruct"


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings(TextSettings):
    """How a model is composed, and what is rebuilt."""

    encoder: str | None = setting(None, "folder or hub id of an encoder, for a new model")
    encoder_layers: int = setting(
        0, "of a new model: the decoder's first layers as encoder", least=0
    )
    decoder: str | None = setting(None, "folder or hub id of a decoder, for a new model")
    k: int = setting(16, "of a new model: tokens of a chunk")
    window: int | None = setting(None, "of a new model: tokens the encoder reads at once")
    chunking: str = setting("fixed", "of a new model: fixed, sentence or passage")
    pooling: str | None = setting(None, "of a new model: mean, cls, concat, eos or linear")
    projector_width: int | None = setting(None, "of a new model: hidden units of the projector")
    readable_start: bool = setting(
        False, "of a new model: begin with vectors that tokens can be read from (linear pooling)"
    )


def run(settings: ReconstructSettings) -> None:
    """Train encoder and projector against the frozen decoder."""
    torch.manual_seed(settings.seed)
    model = _start(settings)
    set_moving(model, settings, decoder=False)

    def rows(documents: Documents, lengths: Lengths) -> DocumentChunks:
        return DocumentChunks(
            documents,
            model,
            lengths,
            batch_size=settings.batch_size,
            sizes=settings.chunk_sizes(model),
            asked=settings.asked,
        )

    run_on_text(model, settings, STAGE, rows)


def _start(settings: ReconstructSettings) -> RefragModel:
    encoder = settings.encoder_layers or settings.encoder
    if (encoder is None) != (settings.decoder is None):
        raise InputError("A new model needs an encoder and a decoder; expected both or neither.")
    if encoder is None or settings.decoder is None:
        if settings.start is None:
            raise InputError(
                "No model to start from; expected --decoder and --encoder (or --encoder-layers) "
                "for a new one, or --start."
            )
        return start_model(settings, settings.start)
    model = RefragModel.compose(
        encoder,
        settings.decoder,
        k=settings.k,
        window=settings.window,
        chunking=settings.chunking,
        pooling="linear" if settings.readable_start else settings.pooling,
        projector_width=settings.projector_width,
        chunk_sizes=tuple(dict.fromkeys((settings.k, *settings.sizes))) if settings.sizes else None,
    )
    check_trainable(model)
    if settings.readable_start:
        documents = Documents.open(settings.data, model.tokenizer)
        start_readable(model.to(PartialState().device), documents, Random(settings.seed))
    return model.train()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train encoder and projector."""
    run(parse(ReconstructSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
