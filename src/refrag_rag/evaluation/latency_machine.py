"""Where figures were measured, and with which versions."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from refrag_rag.model import RefragModel

PACKAGES = ("refrag-rag", "torch", "transformers", "tokenizers", "numpy", "lmdb")


def machine(model: RefragModel) -> dict[str, Any]:
    """Machine, versions, and how the model's decoder computes, for a report."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": str(model.device),
        "dtype": str(model.decoder.dtype).removeprefix("torch."),
        "attention": model.decoder.config._attn_implementation,
        "decoder_parameters": sum(p.numel() for p in model.decoder.parameters()),
        "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
