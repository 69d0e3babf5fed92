"""REFRAG for existing RAG chains: a local decoder reads one vector per k tokens of a passage.

Names are imported when they are first used: marking passages takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    PromptTooLongError,
    RefragError,
    ServingError,
    StoreError,
)
from refrag_rag.spans import compressible, strip_spans

if TYPE_CHECKING:
    from refrag_rag.config import RefragConfig
    from refrag_rag.engine import Refrag
    from refrag_rag.generation.answer import Answer, Counts, Delta, PrecomputeReport, Timings
    from refrag_rag.model import RefragModel
    from refrag_rag.prompt import CompressedPrompt

__all__ = [
    "Answer",
    "CheckpointError",
    "CompressedPrompt",
    "Counts",
    "Delta",
    "InputError",
    "MissingExtraError",
    "PrecomputeReport",
    "PromptTooLongError",
    "Refrag",
    "RefragConfig",
    "RefragError",
    "RefragModel",
    "ServingError",
    "StoreError",
    "Timings",
    "compressible",
    "strip_spans",
]
__version__ = "0.1.0"
_LAZY = {
    **dict.fromkeys(
        ("Answer", "Counts", "Delta", "PrecomputeReport", "Timings"), "generation.answer"
    ),
    "CompressedPrompt": "prompt",
    "Refrag": "engine",
    "RefragConfig": "config",
    "RefragModel": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
