"""One process of a sharded run, started by torchrun: ``sharded.py OUT KIND``."""

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
from tests.training.test_loop import FixedRows, settings, some_rows

if __name__ == "__main__":
    PartialState(cpu=True)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    model = build_model(train_tokenizer(World(), vocab_size=600, passages=200, seed=0))
    module = train(
        Reader(model),
        source=FixedRows(some_rows()),
        settings=settings(
            folder, steps=int(sys.argv[2]), lr=3e-4, save_every=3, micro_batch=2
        ),
        folder=folder,
    )
    finish(module, model, folder)
