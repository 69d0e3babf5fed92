"""The keyword arguments of `Refrag.load` by name and type, so that editors know them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from refrag_rag.engine.lookup import VectorType
from refrag_rag.engine.prepare import OnMiss
from refrag_rag.policies import Policy


class EngineSettings(TypedDict, total=False):
    """Those of `Refrag`."""

    policy: str | Policy | None
    p: float | None
    on_miss: OnMiss
    vectors: VectorType
    scores: Collection[str]
    prompt_cache: int
    backend: Any


class LoadSettings(EngineSettings, total=False):
    """Those of `Refrag`, and those of `refrag_rag.checkpoints.load`."""

    dtype: torch.dtype | str | None
    device: torch.device | str | None
    device_map: str | dict[str, Any] | None
    attn_implementation: str | None
    quantization: str | None
    adapter: bool | Literal["apart"]
    k: int | None
    base: str | Path | None
    revision: str | None
    cache_dir: str | Path | None
    token: str | None
    local_files_only: bool
