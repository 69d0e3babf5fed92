"""Encode the passages of a JSON-lines file on all GPUs of a machine, into one store on disk.

``torchrun --nproc-per-node 8 examples/precompute_on_all_gpus.py PASSAGES.jsonl MODEL STORE``
Each process encodes its share; writers of a store take turns. Without a GPU all use the CPU.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from refrag_rag import Refrag
from refrag_rag.store.sources import read_texts


def main(passages: Path, model: str, store: str) -> None:
    """Encode one process's share."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    texts = sorted(read_texts(passages), key=len)
    engine = Refrag.load(model, store=store, device=str(state.device))
    # Every n-th by length: all processes get as many tokens.
    share = texts[state.process_index :: state.num_processes]
    report = engine.precompute(share, progress=state.is_main_process)
    print(f"process {state.process_index}: {report.encoded} encoded, {report.hits} there before")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
