"""What the paper's ingredients are worth, at small scale: two runs that differ in one thing.

``python -m recipes.tiny ablate curriculum --out RUN --json FILE`` and ``... reconstruction``
(REFRAG, section 4.4). Both arms start from the same weights and read texts of the invented world;
what is compared is the loss on texts about entities that neither has seen.
"""

import json
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from recipes.tiny.settings import COMMAND
from recipes.tiny.shape import build
from recipes.tiny.world import World
from refrag_rag.errors import InputError
from refrag_rag.evaluation.metrics import bootstrap
from refrag_rag.model import RefragModel
from refrag_rag.training import pretrain, reconstruct
from refrag_rag.training.batches import Row
from refrag_rag.training.curricula import build_curriculum
from refrag_rag.training.data.documents import Documents, prepare_documents
from refrag_rag.training.document_sources import DocumentChunks, DocumentContinuation
from refrag_rag.training.lengths import table
from refrag_rag.training.policy_rollouts import mean_log_probs
from refrag_rag.training.pretrain import PretrainSettings
from refrag_rag.training.reading import Reader
from refrag_rag.training.reconstruct import ReconstructSettings
from refrag_rag.training.settings import LoopSettings, as_dict, parse, setting
from refrag_rag.training.stage import MODEL, TextSettings

START = "start"
TINY = Path(__file__).parents[2] / "tests" / "models" / "tiny"
Arms = dict[str, Path]
Measured = list[dict[int, NDArray[np.float64]]]  # by seed, by length
Rows = Callable[[Random, int, int], list[Row]]
Source = Callable[[Documents, RefragModel, "AblationSettings"], Rows]
One = TypeVar("One", bound=TextSettings)
TEXTS, PASSAGES, FACTS, ROWS_AT_ONCE = (4000, 1000), 8, 7, 32
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AblationSettings(LoopSettings):
    """What both arms of an ablation share."""

    json: Path | None = field(
        default=None, metadata={"about": "where to write the figures (default: the run folder)"}
    )
    model: str = setting(str(TINY), "model whose decoder reads the vectors")
    k: int = setting(8, "tokens of a chunk")
    chunks: int = setting(16, "longest context, in chunks")
    batch_size: int = setting(16, "examples of a step")
    first: float = setting(0.5, "reconstruction: its share of the tokens")
    lr_after: float | None = setting(
        None, "reconstruction: learning rate of the continuation in both arms (default: lr)"
    )
    seeds: tuple[int, ...] = setting((0,), "of the runs; each gives a pair of arms")
    examples: int = setting(2000, "held-out examples of each length")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if not 0 < self.first < 1:
            raise InputError(f"first = {self.first}; expected more than 0 and less than 1.")


@dataclass(frozen=True)
class Ablation:
    """Two arms: how they are trained, and what their loss is measured on.

    Attributes
    ----------
    by_tokens
        Whether the arms are as long in tokens, and not in steps.
    told
        How often each entity of a document is told, in other words each time. What follows can be
        foretold from what was read only where it says some of it again.
    """

    control: str
    treated: str
    train: Callable[[AblationSettings, Path, Path, int], Arms]
    source: Source
    by_tokens: bool = False
    told: int = 1


def run(name: str, settings: AblationSettings) -> dict[str, Any]:
    """Train the arms of an ablation, measure them, write and return the figures.

    Parameters
    ----------
    name
        One of `ABLATIONS`.
    settings
        Of both arms. A finished arm is not trained again.
    """
    ablation = ABLATIONS[name]
    if ablation.by_tokens and (settings.tokens or 0) < 2:
        raise InputError(
            f"tokens = {settings.tokens}; expected --tokens N, at least 2: what each arm reads."
        )
    measured: dict[str, Measured] = {ablation.control: [], ablation.treated: []}
    for seed in settings.seeds:
        folder = settings.out / f"seed-{seed}"
        texts = _prepare(folder, settings, seed, ablation.told)
        for arm, model in ablation.train(settings, folder, texts[0], seed).items():
            measured[arm].append(_losses(model, ablation.source, texts[1], settings))
    figures = _figures(ablation, measured, settings)
    target = settings.json or settings.out / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def markdown(figures: dict[str, Any]) -> str:
    """A table of held-out losses by length, and the difference at the longest."""
    arms = list(figures["loss"])
    lines = ["| chunks | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for length in figures["loss"][arms[0]]:
        cells = (f"{figures['loss'][arm][length]:.3f}" for arm in arms)
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    gap = figures["difference"]
    lines += [
        "",
        f"`{gap['arm']}` against `{gap['than']}` at {figures['chunks']} chunks: "
        f"{gap['mean']:+.3f} nats a token (95% interval {gap['low']:+.3f} to {gap['high']:+.3f}), "
        f"{gap['relative']:+.1%}.",
    ]
    return "\n".join(lines) + "\n"


def _prepare(folder: Path, settings: AblationSettings, seed: int, told: int) -> tuple[Path, Path]:
    """The model that both arms start from, texts to train on and held-out texts."""
    whole = RefragModel.from_pretrained(settings.model)
    if not (folder / START).exists():
        torch.manual_seed(seed)
        window = settings.k * max(1, 128 // settings.k)
        new = build(whole.decoder, whole.tokenizer, k=settings.k, window=window)
        new.save_pretrained(folder / START)
    found = folder / "train", folder / "held-out"
    for place, count, held_out in zip(found, TEXTS, (False, True), strict=True):
        if not place.exists():
            world, rng = World(held_out=held_out), Random(f"{seed}-{held_out}")
            texts = _texts(world, count, rng, told)
            prepare_documents(texts, whole.tokenizer, place, sources=["the invented world"])
    return found


def _texts(world: World, count: int, rng: Random, told: int) -> Iterator[str]:
    """Documents of several passages, long enough for any context."""
    for _ in range(count):
        entities = world.entities(rng, PASSAGES // told, facts=FACTS)
        passages = (entity.passage(rng) for entity in entities for _ in range(told))
        yield "\n\n".join(passages)


def _curriculum(settings: AblationSettings, folder: Path, data: Path, seed: int) -> Arms:
    """Reconstruction by Table 8, and of the same batches in random order."""
    arms = {}
    for name, curriculum in (("random order", "shuffled"), ("Table 8", "table8")):
        stage = _settings(ReconstructSettings, settings, data, seed, out=folder / curriculum)
        stage = replace(stage, start=str(folder / START), curriculum=curriculum)
        arms[name] = _trained(reconstruct, stage)
    return arms


def _reconstruction(settings: AblationSettings, folder: Path, data: Path, seed: int) -> Arms:
    """Continuation after reconstruction, and from the start, with as many tokens in all."""
    tokens = settings.tokens or 0
    first = max(1, min(tokens - 1, int(tokens * settings.first)))
    lr = settings.lr if settings.lr_after is None else settings.lr_after
    rebuilt = _settings(ReconstructSettings, settings, data, seed, out=folder / "rebuilt")
    rebuilt = replace(rebuilt, start=str(folder / START), tokens=first)
    start = _trained(reconstruct, rebuilt)
    then = _settings(PretrainSettings, settings, data, seed, out=folder / "rebuilt")
    then = replace(then, start=str(start), tokens=tokens - first, lr=lr)
    alone = _settings(PretrainSettings, settings, data, seed, out=folder / "straight")
    alone = replace(alone, start=str(folder / START), lr=lr)
    return {"straight": _trained(pretrain, alone), "rebuilt first": _trained(pretrain, then)}


def _settings(
    kind: type[One], settings: AblationSettings, data: Path, seed: int, *, out: Path
) -> One:
    """Settings of a stage, as far as the ablation's own decide them."""
    names = {one.name for one in fields(kind)}
    own = {name: value for name, value in vars(settings).items() if name in names}
    return kind(**{**own, "out": out, "data": str(data), "seed": seed})


def _trained(stage: ModuleType, settings: TextSettings) -> Path:
    """The model that a stage has made, now or before."""
    model: Path = settings.out / str(stage.STAGE) / MODEL
    if not model.exists():
        logger.info("training %s", model)
        stage.run(settings)
    return model


def _losses(
    folder: Path, source: Source, data: Path, settings: AblationSettings
) -> dict[int, NDArray[np.float64]]:
    """Loss of held-out examples by length, *shape* (examples,) each, nats a token."""
    model = RefragModel.from_pretrained(folder)
    reader = Reader(model)
    rows = source(Documents.open(data, model.tokenizer), model, settings)
    found = {}
    with torch.no_grad():
        for length in tqdm(table(settings.chunks), desc="held-out", unit="length"):
            drawn = rows(Random(length), length, settings.examples)
            found[length] = -mean_log_probs(reader, drawn, ROWS_AT_ONCE).double().numpy()
    return found


def _chunks(documents: Documents, model: RefragModel, settings: AblationSettings) -> Rows:
    lengths = build_curriculum("table8", chunks=settings.chunks)
    return DocumentChunks(documents, model, lengths, batch_size=1).rows


def _continuation(documents: Documents, model: RefragModel, settings: AblationSettings) -> Rows:
    lengths = build_curriculum("table8", chunks=settings.chunks)
    return DocumentContinuation(
        documents, model, lengths, batch_size=1, following=2048, text_shares=(0.0,)
    ).rows


def _figures(
    ablation: Ablation, measured: Mapping[str, Measured], settings: AblationSettings
) -> dict[str, Any]:
    longest = settings.chunks
    control, treated = (
        np.concatenate([losses[longest] for losses in measured[arm]])
        for arm in (ablation.control, ablation.treated)
    )
    gap = treated - control
    low, high = bootstrap(gap)
    return {
        "settings": as_dict(settings),
        "chunks": longest,
        "loss": {
            arm: {n: float(np.mean([one[n].mean() for one in runs])) for n in runs[0]}
            for arm, runs in measured.items()
        },
        "difference": {
            "arm": ablation.treated,
            "than": ablation.control,
            "examples": len(gap),
            "mean": float(gap.mean()),
            "low": low,
            "high": high,
            "relative": float(gap.mean() / control.mean()),
            "by_seed": [
                float((one[longest] - other[longest]).mean())
                for one, other in zip(
                    measured[ablation.treated], measured[ablation.control], strict=True
                )
            ],
        },
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy")},
    }


ABLATIONS = {
    "curriculum": Ablation("random order", "Table 8", _curriculum, _chunks),
    "reconstruction": Ablation(
        "straight", "rebuilt first", _reconstruction, _continuation, by_tokens=True, told=2
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Run one ablation."""
    name = arguments[0] if arguments else ""
    if name not in ABLATIONS:
        raise InputError(
            f"{COMMAND} ablate {name}: no such ablation; expected {' or '.join(ABLATIONS)}."
        )
    command, options = f"{COMMAND} ablate", arguments[1:]
    settings = parse(AblationSettings, name, __doc__, options, command=command)
    print(markdown(run(name, settings)))
