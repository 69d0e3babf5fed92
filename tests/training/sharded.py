"""One process of a run by torchrun: ``sharded.py OUT [STOP_AT | frozen | pointing | clock]``."""

import json
import sys
import time
from pathlib import Path
from random import Random

import torch
from accelerate import PartialState
from safetensors.torch import load_file

from recipes.tiny.layout import lay_out
from recipes.tiny.pointing import pointing_objective
from recipes.tiny.tasks import Level, Mix, Tasks
from recipes.tiny.tokenizer import train_tokenizer
from recipes.tiny.world import World
from refrag_rag.training.loop import train
from refrag_rag.training.reading import Reader
from refrag_rag.training.stage import finish
from tests.conftest import build_model
from tests.training.test_loop import FixedRows, Stopped, settings, some_rows


def main(folder: Path, given: str) -> None:
    """Train six steps, or until the machine goes away; frozen: all but the decoder, in bf16."""
    frozen, stop_at = given == "frozen", int(given) if given.isdigit() else None
    PartialState(cpu=True)
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(World(), vocab_size=600, passages=200, seed=0)
    model = build_model(tokenizer)
    precision = "bf16" if frozen else "no"
    model.decoder.requires_grad_(not frozen)
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    how = settings(folder, steps=6, lr=1e-4, save_every=3, micro_batch=2, precision=precision)
    pointing = given == "pointing"
    source = FixedRows(asked_rows(tokenizer) if pointing else some_rows(), stop_at)
    objective = pointing_objective(model.decoder, 0.5 * pointing)
    try:
        module = train(
            Reader(model), source=source, settings=how, folder=folder, objective=objective
        )
    except Stopped:
        return
    finish(module, model, folder)
    saved = load_file(folder / "model" / "decoder" / "model.safetensors")
    if frozen and not all(torch.equal(before[name], tensor) for name, tensor in saved.items()):
        raise RuntimeError("a frozen tensor is not what it was")


def asked_rows(tokenizer):
    """Questions on passages of which most chunks are vectors."""
    tasks = Tasks(World(), tokenizer.backend_tokenizer, Mix(copy=0.0, retell=0.0, questions=3))
    examples = [tasks.example(Random(seed), Level(2, 2)) for seed in range(4)]
    return lay_out(examples, Random(0), k=8, text_share=0.3)


class Slow(FixedRows):
    """Rows that take one process longer than the other."""

    def __init__(self, rows):
        super().__init__(rows)
        self.shares = []

    def draw(self, rng, share):
        """The same rows, and a note of how far the run was."""
        self.shares.append(share)
        time.sleep(0.03 * PartialState().process_index)
        return self.rows


def by_the_clock(folder: Path) -> None:
    """Train for some seconds."""
    process = PartialState(cpu=True).process_index
    torch.set_num_threads(1)
    model = build_model(train_tokenizer(World(), vocab_size=600, passages=200, seed=0))
    source = Slow(some_rows())
    given = settings(folder, steps=10_000, minutes=0.05, save_every=10_000)
    train(Reader(model), source=source, settings=given, folder=folder)
    (folder / f"shares-{process}.json").write_text(json.dumps(source.shares))


if __name__ == "__main__":
    given = sys.argv[2] if len(sys.argv) > 2 else ""
    if given == "clock":
        by_the_clock(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), given)
