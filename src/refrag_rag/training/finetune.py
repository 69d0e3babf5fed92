"""Stage 4: question answering over passages, compressed, mixed and as full text.

``python -m refrag_rag.training.finetune --out runs/tiny``
"""

from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.pretrain import MixedCurriculum, parse, run_stage
from refrag_rag.training.reconstruct import K
from refrag_rag.training.tasks import Mix

TEXT_SHARES = (0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 1.0, 1.0)
TOP_LEVEL = 9


def main(arguments: list[str] | None = None) -> None:
    """Train everything on questions."""
    run_stage(
        "finetune",
        "pretrain",
        options=parse(__doc__, arguments, minutes=60, lr=1e-3, seed=3),
        mix=Mix(copy=0.03, retell=0.05, plain_style=0.5, joined=0.1),
        curriculum=MixedCurriculum(
            ChunkGrowth(K),
            reconstruction=(0.2, 0.2),
            text_shares=TEXT_SHARES,
            start=TOP_LEVEL,
            below=0.5,
        ),
        decay=1.0,
    )


if __name__ == "__main__":
    main()
