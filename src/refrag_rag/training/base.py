"""Stage 1: a base decoder that answers from full text.

``python -m refrag_rag.training.base --out runs/tiny``
"""

import argparse
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from refrag_rag.training.batches import collate
from refrag_rag.training.curriculum import Curriculum
from refrag_rag.training.loop import LoopConfig, train
from refrag_rag.training.loss import Metrics, next_token_loss
from refrag_rag.training.tasks import Level, Mix, Tasks
from refrag_rag.training.tokenizer import train_tokenizer
from refrag_rag.training.world import World
from refrag_rag.training.world.factbook import load_factbook

POSITIONS_PER_STEP = 2000


def decoder_config(vocab_size: int, *, width: int = 256, layers: int = 4) -> LlamaConfig:
    """The embedded decoder's shape."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def batch_size(level: Level, positions: int) -> int:
    """How many examples of a level fill the positions of one step (measured sizes)."""
    tokens = level.passages * (18 + 12 * level.facts) + 20 * min(12, level.passages * level.facts)
    return max(2, min(24, positions // (tokens + 20)))


def full_text_loss(
    model: nn.Module, rng: Random, _share: float, *, tasks: Tasks, curriculum: Curriculum
) -> Metrics:
    """Loss of a step that reads full text at the curriculum's level."""
    level = curriculum.draw(rng)
    size = batch_size(level, POSITIONS_PER_STEP)
    batch = collate([tasks.example(rng, level) for _ in range(size)], rng)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return next_token_loss(logits, batch)


def main(arguments: list[str] | None = None) -> None:
    """Train tokenizer and base decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factbook", type=Path)
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--start", type=int, default=0, help="first level of the curriculum")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    world = World(pools=load_factbook(options.factbook) if options.factbook else {})
    target = options.out / "decoder"
    if not (target / "tokenizer.json").exists():
        tokenizer = train_tokenizer(
            world, vocab_size=options.vocabulary, passages=20_000, seed=options.seed
        )
        tokenizer.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    if (target / "config.json").exists():  # go on from an earlier run
        model = LlamaForCausalLM.from_pretrained(target)
    else:
        model = LlamaForCausalLM(decoder_config(len(tokenizer)))
    tasks = Tasks(world, tokenizer.backend_tokenizer, Mix(copy=0.05, retell=0.05, plain_style=0.95))
    curriculum = Curriculum(start=options.start)
    train(
        model,
        trainable=model.parameters(),
        loss=partial(full_text_loss, tasks=tasks, curriculum=curriculum),
        curriculum=curriculum,
        config=LoopConfig(options.steps, options.lr, minutes=options.minutes, seed=options.seed),
        folder=options.out / "base",
    )
    model.save_pretrained(target)


if __name__ == "__main__":
    main()
