"""Reports of measurements: on which machine, with which versions, and as JSON."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("refrag-rag", "torch", "transformers", "tokenizers", "numpy", "lmdb")


def machine() -> dict[str, Any]:
    """Where something is measured: ``machine`` in words, ``python``, and ``versions`` by package.

    Returns
    -------
    dict
        To be merged into a report.
    """
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    parts = (
        accelerator,
        _processor(),
        platform.system(),
        f"{os.cpu_count()} cores",
        f"{torch.get_num_threads()} threads",
    )
    return {
        "machine": ", ".join(filter(None, parts)),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in PACKAGES},
    }


def where(report: Mapping[str, Any]) -> str:
    """Versions and machine of a report, in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return f"Python {report['python']}, {versions}; {report['machine']}."


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def package_version(name: str) -> str:
    """A package's version, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
