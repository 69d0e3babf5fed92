"""What this machine can run, what a checkpoint needs, and one line of advice."""

import platform
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from refrag_rag.checkpoints import delta, layout_of, lclm, resolve
from refrag_rag.checkpoints.base import Base
from refrag_rag.checkpoints.cache import cache_folder
from refrag_rag.checkpoints.machine import GIB, Machine, Needs, needs, this_machine
from refrag_rag.errors import EXTRAS, missing
from refrag_rag.evaluation.report import package_version

PACKAGES = ("refrag-rag", "torch", "transformers", "llama-index-core", "langchain-core")


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
    yield "packages  " + ", ".join(f"{name} {package_version(name)}" for name in PACKAGES)
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
