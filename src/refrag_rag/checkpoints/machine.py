"""What this machine has, what a checkpoint takes, and which loading fits."""

import logging
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from refrag_rag.errors import CheckpointError

GIB = 2**30
AUTO = "auto"
SPARED = 0.8  # of the free memory, that a model may take
POSITIONS = 4096  # of the KV cache that there should be room for
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """Where a model would run; on an accelerator weights keep their stored dtype."""

    device: str
    memory: int  # bytes that are free
    kind: str  # cuda, mps or cpu, as torch names it

    @property
    def accelerated(self) -> bool:
        """Whether it is no ordinary processor."""
        return self.kind != "cpu"


@dataclass(frozen=True)
class Needs:
    """What a checkpoint takes, all parts together."""

    parameters: int
    stored: int  # bytes of the weights
    window: int  # decoder positions
    cache_per_position: int  # elements of the KV cache

    def bytes_on(self, machine: Machine, positions: int) -> int:
        """Weights and KV cache in the dtype that is loaded by default there."""
        if machine.accelerated:
            size = self.stored / max(1, self.parameters)
            return int(self.stored + positions * self.cache_per_position * size)
        return 4 * (self.parameters + positions * self.cache_per_position)


def this_machine() -> Machine:
    """Look at the first accelerator, or else at the processor and its memory."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine(torch.cuda.get_device_name(), int(free), "cuda")
    if torch.backends.mps.is_available():
        return Machine("Apple GPU", _free_memory(), "mps")
    name = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    return Machine(name, _free_memory(), "cpu")


class Loading(NamedTuple):
    """How a checkpoint is loaded: see `refrag_rag.checkpoints.load`."""

    device: str
    dtype: str
    quantization: str | None


def fitting(machine: Machine, found: Needs) -> Loading:
    """The most exact loading that fits; where none does, the smallest.

    The decoder is nearly all of a checkpoint, so that its parts are not told apart.
    """
    kinds = [("bfloat16", None, 2.0), ("bfloat16", "int8", 1.0)]
    if machine.kind == "cuda":
        kinds.append(("bfloat16", "int4", 0.6))
    if machine.kind == "cpu":
        kinds.insert(0, ("float32", None, 4.0))
    cache = POSITIONS * found.cache_per_position
    for dtype, quantization, size in kinds:
        takes = size * found.parameters + (4 if dtype == "float32" else 2) * cache
        chosen = Loading(machine.kind, dtype, quantization)
        if takes <= SPARED * machine.memory:
            break
    logger.info(
        "device = 'auto' picks %s, %s, quantization %s: %.1f GiB of %.1f GiB free on %s",
        *chosen, takes / GIB, machine.memory / GIB, machine.device,
    )  # fmt: skip
    return chosen


def needs(folder: Path) -> Needs:
    """Add up the tensors of a checkpoint folder, from their headers alone.

    Raises
    ------
    CheckpointError
        If a file is damaged or the decoder's config cannot be read.
    """
    count = stored = 0
    try:
        for path in sorted(folder.rglob("*.safetensors")):
            stored += path.stat().st_size
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    count += math.prod(tensors.get_slice(name).get_shape())
        config = AutoConfig.from_pretrained(folder / "decoder", local_files_only=True)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {error}). Download it again."
        ) from error
    return Needs(count, stored, *_cache(config.get_text_config()))


def _cache(config: Any) -> tuple[int, int]:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.max_position_embeddings), 2 * config.num_hidden_layers * heads * width


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if "MemAvailable" in line) * 1024
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
