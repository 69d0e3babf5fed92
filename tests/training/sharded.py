"""One process of a run, started by torchrun: ``sharded.py OUT [STOP_AT]``."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from refrag_rag.training.loop import train
from refrag_rag.training.reading import Reader
from refrag_rag.training.stage import finish
from refrag_rag.training.tokenizer import train_tokenizer
from refrag_rag.training.world import World
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, Stopped, settings, some_rows


def main(folder: Path, stop_at: int | None) -> None:
    """Train six steps, or until the machine goes away."""
    PartialState(cpu=True)
    torch.set_num_threads(1)
    model = build_model(train_tokenizer(World(), vocab_size=600, passages=200, seed=0))
    given = settings(folder, steps=6, lr=1e-4, save_every=3, micro_batch=2)
    source = FixedRows(some_rows(), stop_at)
    try:
        module = train(Reader(model), source=source, settings=given, folder=folder)
    except Stopped:
        return
    finish(module, model, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
