"""What this machine can run, what a checkpoint needs, and one line of advice."""

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from refrag_rag.checkpoints import delta, layout_of, lclm, resolve
from refrag_rag.checkpoints.base import Base
from refrag_rag.checkpoints.cache import cache_folder
from refrag_rag.errors import EXTRAS, CheckpointError, missing

PACKAGES = ("refrag-rag", "torch", "transformers", "llama-index-core", "langchain-core")
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Where a model would run; on an accelerator weights keep their stored dtype."""

    device: str
    memory: int  # bytes that are free
    accelerated: bool


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
        return Machine(torch.cuda.get_device_name(), int(free), accelerated=True)
    if torch.backends.mps.is_available():
        return Machine("Apple GPU", _free_memory(), accelerated=True)
    name = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    return Machine(name, _free_memory(), accelerated=False)


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


def cpu_dtypes() -> str:
    """What to expect of dtypes on this processor, in one line."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return "float32 by default; dtype='bfloat16' halves the memory, and this CPU computes in it"
    return "float32 by default; dtype='bfloat16' is slower here, the CPU has no instructions for it"


def report(model: str | None = None) -> Iterator[str]:
    """Lines for people; the last one is the advice."""
    machine = this_machine()
    yield f"machine   {machine.device}, {machine.memory / GIB:.1f} GiB free"
    if not machine.accelerated:
        yield f"dtype     {cpu_dtypes()}"
    yield f"python    {platform.python_version()} on {platform.system()}"
    yield "packages  " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    for extra in EXTRAS:
        absent = missing(extra)
        state = f"missing {', '.join(absent)}: pip install 'refrag-rag[{extra}]'"
        yield f"extra     {extra}: {state if absent else 'installed'}"
    if model is None:
        yield "advice    Name a checkpoint to see what it needs: refrag doctor smol"
        return
    layout, folder = layout_of(resolve(model))
    if layout == delta.NAME:
        manifest = delta.read_manifest(folder)
        yield f"base      {manifest.base.name}: {_base_state(manifest.base)}"
        folder = cache_folder() / manifest.folder_name()
        if not folder.is_dir():
            yield f"model     {model}: {layout} layout, not put together yet"
            yield f"advice    Load it once: Refrag.load({model!r}) puts it together, in {folder}"
            return
        yield f"folder    {folder}"
    found = needs(folder)
    if layout == lclm.NAME:
        loaded = str(lclm.DTYPE).removeprefix("torch.")
        yield f"files     {found.stored / 10**9:.2f} GB; off the CPU they are loaded as {loaded}"
        found = replace(found, stored=lclm.DTYPE.itemsize * found.parameters)
    total = found.bytes_on(machine, found.window)
    yield f"model     {model}: {layout} layout, {found.parameters:,} parameters"
    yield f"needs     {total / GIB:.2f} GiB with a full window of {found.window:,} positions"
    yield f"advice    {advise(machine, found)}"


def _base_state(base: Base) -> str:
    place = base.installed()
    if place is not None:
        return f"installed, {place}"
    return f"not installed: {base.command}" if base.command else "taken from the hub"


def advise(machine: Machine, found: Needs) -> str:
    """One sentence on whether it fits."""
    if found.bytes_on(machine, found.window) <= 0.9 * machine.memory:
        return "It fits, window and all."
    if found.bytes_on(machine, 4096) <= 0.9 * machine.memory:
        return "It fits with prompts of about 4,096 positions; compress more text or shorten them."
    if not machine.accelerated and found.stored < 3 * found.parameters:
        return "Too large in float32; try dtype='bfloat16' or a GPU."
    return "It does not fit; try device_map='auto' on several GPUs, or a smaller decoder."


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


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
