"""Training steps on random data: positions and encoder tokens a second, share of the card's peak.

The decoder has a LoRA adapter, encoder and projector are trained whole; a step ends when the next
could begin. Runs on a CPU at ``--shape tiny``.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from benchmarks.harness import spread, synchronise, table
from benchmarks.models import DECODERS, TOKENIZER, build_decoder
from refrag_rag.checkpoints.lora import multiply_merged
from refrag_rag.checkpoints.parts import read_tokenizer
from refrag_rag.config import RefragConfig
from refrag_rag.evaluation.report import write_json
from refrag_rag.model import RefragModel
from refrag_rag.model.encoder import ChunkEncoder, build_pooling
from refrag_rag.model.projector import Projector
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Piece, Row, arrange, collate, gold
from refrag_rag.training.loop import LOG, train
from refrag_rag.training.reading import Reader
from refrag_rag.training.settings import LoopSettings
from refrag_rag.training.stage import add_adapter, freeze

# Dense bfloat16, FLOP/s, from the makers' data sheets, by a part of the card's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
K, WINDOW = 8, 128


@dataclass(frozen=True)
class Shape:
    """A decoder of `benchmarks.models`, the encoder's layers, and what a step reads."""

    decoder: str
    encoder_layers: int
    rank: int
    rows: int
    length: int
    windows: int


SHAPES = {
    "smol": Shape("smollm-135m", 6, 64, 48, 512, 640),
    "tiny": Shape("test", 1, 4, 4, 64, 8),
}


class RandomRows:
    """Rows of one length: windows of vectors, then text of which half has to be said."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        self.shape, self.vocabulary = shape, vocabulary
        self.times: list[float] = []

    def draw(self, rng: Random, share: float) -> list[Row]:  # noqa: ARG002
        """The rows of a step."""
        windows, rows = self.shape.windows, self.shape.rows
        counts = [windows * (i + 1) // rows - windows * i // rows for i in range(rows)]
        return [self._row(rng, count) for count in counts]

    def _row(self, rng: Random, windows: int) -> Row:
        chunks = WINDOW // K
        passages = [self._ids(rng, WINDOW) for _ in range(windows)]
        pieces = [
            Piece(ids, chunked=ChunkedPassage("", ids, (K,) * chunks, (0,) * chunks))
            for ids in passages
        ]
        left = max(2, self.shape.length - windows * chunks)
        text = self._ids(rng, left)
        example = [*pieces, Piece(text[: left // 2]), gold(text[left // 2 :])]
        return arrange(example, [[False] * chunks] * windows)

    def _ids(self, rng: Random, count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(self.vocabulary) for _ in range(count))

    def block(self, rng: Random, share: float) -> list[list[Row]]:
        """One step."""
        return [self.draw(rng, share)]

    def record(self, loss: float, accuracy: float) -> None:  # noqa: ARG002
        """Note when a step ended."""
        synchronise()
        self.times.append(time.perf_counter())

    def summary(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    state = summary

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""


def build(shape: Shape) -> RefragModel:
    """A random model of a shape, its decoder with an adapter."""
    torch.manual_seed(0)
    sizes = DECODERS[shape.decoder]
    tokenizer = read_tokenizer(TOKENIZER)
    decoder = build_decoder(sizes, torch.float32)
    values = decoder.config.to_dict() | {"num_hidden_layers": shape.encoder_layers}
    config = RefragConfig(
        name="benchmark", k=K, window=WINDOW, pooling="linear", shared_vocabulary=True,
        encoder_width=sizes.width, decoder_width=sizes.width, projector_width=2 * sizes.width,
    )  # fmt: skip
    encoder = LlamaModel(LlamaConfig(**values))
    model = RefragModel(
        config=config,
        encoder=ChunkEncoder(encoder, tokenizer, config, build_pooling(config)),
        projector=Projector(sizes.width, sizes.width, 2 * sizes.width),
        decoder=decoder,
        tokenizer=tokenizer,
    )
    freeze(model, [model.encoder, model.projector])
    encoder.get_input_embeddings().requires_grad_(False)
    add_adapter(model, rank=shape.rank)
    return model.train()


def flops(model: RefragModel, shape: Shape, targets: int) -> float:
    """Of a step's matrix products, without attention: 2 a weight forwards, as many to inputs.

    As many again where the weight is trained; the head counts for the targets alone.
    """
    total: float = 4.0 * model.decoder.get_output_embeddings().weight.numel() * targets
    for part, tokens in (
        (model.decoder, shape.rows * shape.length),
        (model.encoder, shape.windows * WINDOW),
    ):
        embeddings = {id(p) for m in part.modules() if isinstance(m, torch.nn.Embedding)
                      for p in m.parameters()}  # fmt: skip
        for weight in part.parameters():
            if id(weight) not in embeddings and weight.ndim == 2:
                total += (4 + 2 * weight.requires_grad) * weight.numel() * tokens
    return total


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps, and write the report."""
    shape, started = SHAPES[options.shape], options.warmup
    model = build(shape)
    multiply_merged(model.decoder)
    source = RandomRows(shape, DECODERS[shape.decoder].vocabulary)
    row = source.draw(Random(0), 0.0)
    targets = sum(sum(one.targets) for one in row)
    with TemporaryDirectory() as folder:
        settings = LoopSettings(
            out=Path(folder), steps=options.warmup + options.steps, save_every=10**9,
            micro_batch=shape.rows, precision=options.precision, compile=options.compile,
            workers=options.workers, log_every=1,
        )  # fmt: skip
        cut = partial(collate, cutter=model.encoder.cutter, most=model.max_positions)
        train(Reader(model), source=source, settings=settings, folder=settings.out, collate=cut)
        lines = (settings.out / LOG).read_text("utf-8").splitlines()
    ends = source.times[started - 1 :]
    seconds = [after - before for before, after in pairwise(ends)]
    waits = [json.loads(line)["waited"] for line in lines]
    whole, waited = sum(seconds), waits[-1] - waits[started - 1]
    cuda = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if cuda else "CPU"
    peak = options.peak or next((v for n, v in PEAKS.items() if n in card), None)
    done = flops(model, shape, targets) / (whole / len(seconds))
    report = {
        **{n: v for n, v in vars(options).items() if not isinstance(v, Path)},
        "device": card, "torch": torch.__version__, "targets": targets,
        "positions": sum(one.tokens for one in row), "encoder_tokens": shape.windows * WINDOW,
        "seconds": spread(seconds), "waiting": waited / whole, "flops": done,
        "of_peak": done / peak if peak else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }  # fmt: skip
    for name in ("positions", "encoder_tokens"):
        report[f"{name}_per_second"] = report[name] * len(seconds) / whole
    write_json(report, options.json)
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """The figures in one line."""
    share = "-" if report["of_peak"] is None else f"{report['of_peak']:.1%}"
    heads = ("decoder positions/s", "encoder tokens/s", "TFLOP/s", "of peak", "waiting for data")
    cells = (
        f"{report['positions_per_second']:,.0f}", f"{report['encoder_tokens_per_second']:,.0f}",
        f"{report['flops'] / 1e12:.3f}", share, f"{report['waiting']:.1%}",
    )  # fmt: skip
    return table(heads, [cells])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print them."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--shape", choices=SHAPES, default="smol")
    made.add_argument("--steps", type=int, default=20, help="that are timed (default: 20)")
    made.add_argument("--warmup", type=int, default=5, help="before those (default: 5)")
    made.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    made.add_argument("--compile", action="store_true")
    made.add_argument("--workers", type=int, default=0)
    made.add_argument("--peak", type=float, help="FLOP/s of the card, where it is not known")
    made.add_argument("--json", type=Path, required=True, help="where to write the figures")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
