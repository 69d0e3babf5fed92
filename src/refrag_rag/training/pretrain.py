"""Stage 3: continual pre-training. Everything moves; input is a mix of vectors and text.

Reconstruction goes on, and the next paragraph is predicted: it tells the facts of one of the
passages again in other words. ``python -m refrag_rag.training.pretrain --out runs/tiny``
(REFRAG, section 2.2)
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

import torch

from refrag_rag.model import RefragModel
from refrag_rag.training.batches import collate
from refrag_rag.training.curriculum import Curriculum
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.loop import LoopConfig, train
from refrag_rag.training.loss import Metrics
from refrag_rag.training.reading import read
from refrag_rag.training.reconstruct import K, reconstruction_loss
from refrag_rag.training.tasks import Level, Mix, Tasks
from refrag_rag.training.world import World
from refrag_rag.training.world.factbook import load_factbook

POSITIONS_PER_STEP = 1600
# Share of chunks that stay text, drawn for each step; zero stands for all compressed.
TEXT_SHARES = (0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 1.0)


class MixedCurriculum(Curriculum):
    """Levels of contexts, with reconstruction steps between them at the paper's lengths.

    Parameters
    ----------
    growth
        Chunk sizes, of all steps.
    reconstruction
        Share of reconstruction steps while chunks grow, and once they have their full size: what
        cannot be rebuilt cannot be read.
    text_shares
        Shares of chunks that stay text, one drawn for each step.
    start, below
        See `Curriculum`.
    """

    def __init__(
        self,
        growth: ChunkGrowth,
        *,
        reconstruction: tuple[float, float],
        text_shares: Sequence[float] = TEXT_SHARES,
        start: int = 0,
        below: float = 0.3,
    ) -> None:
        super().__init__(start=start, threshold=0.8, below=below)
        self.lengths = LengthCurriculum(growth)
        self.reconstruction = reconstruction
        self.text_shares = text_shares
        self.reconstructing = False
        self.full_text = False

    def record(self, loss: float, accuracy: float) -> None:
        """Take note in the table of the kind of step that was made; full text never counts."""
        if self.reconstructing:
            self.lengths.record(loss, accuracy)
        elif not self.full_text:
            super().record(loss, accuracy)

    def summary(self) -> dict[str, object]:
        """Figures for the log."""
        return {**super().summary(), "reconstruction": self.lengths.summary()}

    def state(self) -> dict[str, object]:
        """What `restore` needs."""
        return {**super().state(), "lengths": self.lengths.state()}

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        self.lengths.restore(state.pop("lengths"))  # type: ignore[arg-type]
        super().restore(state)


def batch_size(level: Level, text_share: float, k: int, positions: int) -> int:
    """How many examples of a level fill the positions of one step."""
    tokens = level.passages * (18 + 12 * level.facts)
    context = tokens * text_share + tokens * (1 - text_share) / k
    asked = 20 * min(12, level.passages * level.facts)
    return max(2, min(24, int(positions / (context + asked + 20))))


def mixed_loss(
    model: RefragModel, rng: Random, share: float, *, tasks: Tasks, curriculum: MixedCurriculum
) -> Metrics:
    """Loss of one step: reconstruction, or a context of which a random share is vectors."""
    wanted = curriculum.reconstruction[curriculum.lengths.growth.grown]
    curriculum.reconstructing = rng.random() < wanted
    if curriculum.reconstructing:
        # Late rows of the table: single chunks could be told apart by their place alone.
        return reconstruction_loss(
            model, rng, 0.5 + share / 2, tasks=tasks, lengths=curriculum.lengths
        )
    k = curriculum.lengths.growth.draw(rng)
    text_share = rng.choice(curriculum.text_shares)
    curriculum.full_text = text_share == 1
    level = curriculum.draw(rng)
    size = batch_size(level, text_share, k, POSITIONS_PER_STEP)
    examples = [tasks.example(rng, level) for _ in range(size)]
    return read(model, collate(examples, rng, k=k, text_share=text_share))


def run_stage(
    name: str,
    source: str,
    *,
    options: argparse.Namespace,
    mix: Mix,
    curriculum: MixedCurriculum,
    decay: float,
) -> None:
    """Train all parts of ``out/source/model`` and save ``out/name/model``."""
    torch.manual_seed(options.seed)
    model = RefragModel.from_pretrained(options.out / source / "model").train()
    world = World(pools=load_factbook(options.factbook) if options.factbook else {})
    tasks = Tasks(world, model.tokenizer.backend_tokenizer, mix)
    train(
        model,
        trainable=model.parameters(),
        loss=partial(mixed_loss, tasks=tasks, curriculum=curriculum),
        curriculum=curriculum,
        config=LoopConfig(
            options.steps, options.lr, minutes=options.minutes, seed=options.seed, decay=decay
        ),
        folder=options.out / name,
    )
    model.save_pretrained(options.out / name / "model")


def parse(doc: str | None, arguments: list[str] | None, **defaults: float) -> argparse.Namespace:
    """Options that stages 3 and 4 share."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factbook", type=Path)
    parser.add_argument("--minutes", type=float, default=defaults["minutes"])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--lr", type=float, default=defaults["lr"])
    parser.add_argument("--seed", type=int, default=int(defaults["seed"]))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train everything on mixed input."""
    run_stage(
        "pretrain",
        "reconstruct",
        options=parse(__doc__, arguments, minutes=60, lr=1e-3, seed=2),
        mix=Mix(copy=0.05, retell=0.05, plain_style=0.95),
        curriculum=MixedCurriculum(ChunkGrowth(K, start=1), reconstruction=(0.6, 0.25), start=2),
        decay=0.1,
    )


if __name__ == "__main__":
    main()
