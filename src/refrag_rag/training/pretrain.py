"""Stage 2: continual pre-training. Everything moves; first all vectors, then mixed with text.

The next paragraph is predicted from the compressed one before it.
``python -m refrag_rag.training.pretrain --config small --out RUN`` (REFRAG, section 2.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refrag_rag.training.curricula import run_on_text
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentContinuation
from refrag_rag.training.protocols import Lengths
from refrag_rag.training.reconstruct import STAGE as RECONSTRUCT
from refrag_rag.training.settings import parse, setting
from refrag_rag.training.stage import TextSettings, set_moving, start_model

STAGE = "pretrain"


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TextSettings):
    """What is predicted from what."""

    following: int = setting(2048, "most tokens to predict")
    text_shares: tuple[float, ...] = setting(
        (0.0, 0.1), "shares of chunks that stay text, one phase each"
    )


def run(settings: PretrainSettings) -> None:
    """Train everything on mixed input."""
    torch.manual_seed(settings.seed)
    model = start_model(settings, RECONSTRUCT)
    set_moving(model, settings, decoder=True)

    def rows(documents: Documents, lengths: Lengths) -> DocumentContinuation:
        return DocumentContinuation(
            documents,
            model,
            lengths,
            following=settings.following,
            text_shares=settings.text_shares,
            batch_size=settings.batch_size,
            sizes=settings.chunk_sizes(model),
            asked=settings.asked,
        )

    run_on_text(model, settings, STAGE, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train everything on mixed input."""
    run(parse(PretrainSettings, STAGE, __doc__, arguments))


if __name__ == "__main__":
    main()
