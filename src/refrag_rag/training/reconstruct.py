"""Stage 2: reconstruction. The decoder is frozen; n chunks in, their n·k tokens out.

``python -m refrag_rag.training.reconstruct --out runs/tiny`` (REFRAG, section 2.2)
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from refrag_rag.config import RefragConfig
from refrag_rag.encoder import ChunkEncoder
from refrag_rag.model import RefragModel
from refrag_rag.projector import Projector
from refrag_rag.training.batches import Batch, collate
from refrag_rag.training.growth import ChunkGrowth
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.loop import LoopConfig, train
from refrag_rag.training.loss import Metrics
from refrag_rag.training.reading import read
from refrag_rag.training.tasks import CHOICE_WEIGHT, Mix, Piece, Tasks
from refrag_rag.training.world import World

K = 8
POSITIONS_PER_STEP = 1200


def build(
    decoder_folder: Path, *, width: int = 128, layers: int = 2, window: int = 128
) -> RefragModel:
    """A new encoder and projector before a trained decoder, whose embeddings they start from."""
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder)
    decoder = AutoModelForCausalLM.from_pretrained(decoder_folder)
    config = RefragConfig(
        name="refrag-tiny",
        k=K,
        window=window,
        pooling="concat",
        shared_vocabulary=True,
        encoder_width=width,
        decoder_width=decoder.config.hidden_size,
        projector_width=K * width,
    )
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=window,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = ChunkEncoder(BertModel(shape, add_pooling_layer=False), tokenizer, config)
    projector = Projector(config.chunk_width, config.decoder_width, config.projector_width)
    embeddings = decoder.get_input_embeddings().weight
    _start_embeddings(encoder, embeddings)
    _start_projector(projector, scale=4 * embeddings.std().item())
    return RefragModel(
        config=config,
        encoder=encoder,
        projector=projector,
        decoder=decoder,
        tokenizer=tokenizer,
    )


def _start_embeddings(encoder: ChunkEncoder, embeddings: Tensor) -> None:
    """Tokens that are alike to the decoder are alike to the encoder: a random projection."""
    target = encoder.model.get_input_embeddings().weight  # (vocabulary, encoder_width)
    projected = embeddings @ torch.randn(embeddings.shape[1], target.shape[1])
    with torch.no_grad():
        target.copy_(0.3 * projected / projected.std())


def _start_projector(projector: Projector, scale: float) -> None:
    """Keep the states of a chunk apart, and enter at about the scale of token embeddings.

    Far above it, the decoder's layers add too little to change the vectors, and their gradients
    vanish in the first normalisation.
    """
    nn.init.orthogonal_(projector.hidden.weight)
    nn.init.normal_(projector.output.weight, std=scale / projector.output.in_features**0.5)
    nn.init.zeros_(projector.output.bias)


def reconstruction_batch(
    rng: Random, tasks: Tasks, *, chunks: int, k: int, positions: int
) -> Batch:
    """Runs of `chunks` chunks as vectors, followed by their tokens."""
    size = max(2, min(160, positions // (chunks * (k + 1) + 1)))
    examples = []
    for ids in _runs(rng, tasks, chunks * k, size):
        examples.append(
            [
                Piece([tasks.roles["bos"]], 0.0),
                Piece(ids, 0.0, passage=True),
                Piece([*ids, tasks.roles["end"]], CHOICE_WEIGHT),
            ]
        )
    return collate(examples, rng, k=k, text_share=0.0)


def _runs(rng: Random, tasks: Tasks, length: int, count: int) -> Iterator[list[int]]:
    """Runs of at most `length` tokens: pieces of passages."""
    text: list[int] = []
    for _ in range(count):
        if len(text) < length:
            text = []
            while len(text) < max(length, 48):
                text += tasks.encode(tasks.world.entity(rng, facts=7).passage(rng))
            text = text[rng.randrange(8) :]
        short = rng.randint(1, length) if rng.random() < 0.1 else length
        yield text[:short]
        text = text[length:]


def reconstruction_loss(
    model: RefragModel, rng: Random, share: float, *, tasks: Tasks, lengths: LengthCurriculum
) -> Metrics:
    """Loss of one step at a length of the paper's curriculum."""
    chunks = lengths.draw(rng, share)
    k = lengths.growth.draw(rng)
    return read(
        model,
        reconstruction_batch(rng, tasks, chunks=chunks, k=k, positions=POSITIONS_PER_STEP),
    )


def main(arguments: list[str] | None = None) -> None:
    """Train encoder and projector against the frozen base decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = build(options.out / "decoder")
    tasks = Tasks(World(), model.tokenizer.backend_tokenizer, Mix())
    lengths = LengthCurriculum(ChunkGrowth(model.config.k, start=1))
    train(
        model,
        trainable=[*model.encoder.parameters(), *model.projector.parameters()],
        loss=partial(reconstruction_loss, tasks=tasks, lengths=lengths),
        curriculum=lengths,
        config=LoopConfig(options.steps, options.lr, minutes=options.minutes, seed=options.seed),
        folder=options.out / "reconstruct",
    )
    model.save_pretrained(options.out / "reconstruct" / "model")


if __name__ == "__main__":
    main()
