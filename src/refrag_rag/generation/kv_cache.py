"""KV caches that keep keys and values in fewer bits, by the classes of transformers."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, QuantizedCache

from refrag_rag.errors import InputError, need

# Of each: the backend in transformers, its options, and the packages that it needs.
KV_CACHES: Mapping[str, tuple[str, dict[str, int], list[str]]] = {
    "fp8": ("fp8", {}, []),
    "int4": ("quanto", {"nbits": 4}, ["optimum.quanto"]),
}


def new_cache(name: str, decoder: PreTrainedModel) -> Any:
    """An empty KV cache for one batch.

    The prefill itself is exact; what is read back later is rounded. With ``int4`` the last 128
    positions are kept whole (Liu et al. 2024, KIVI).

    Raises
    ------
    InputError
        If there is none of that name, or the decoder cannot use it.
    MissingExtraError
        If its package is missing.
    """
    if name not in KV_CACHES:
        raise InputError(f"kv_cache = {name!r}; expected one of {', '.join(KV_CACHES)}, or None.")
    backend, options, packages = KV_CACHES[name]
    if packages:
        need("quantization", f"kv_cache = {name!r}", packages)
    try:
        return QuantizedCache(backend, decoder.config, **options)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(
            f"kv_cache = {name!r} does not fit {type(decoder).__name__} with this version of "
            f"transformers ({error}). Leave it out."
        ) from error
