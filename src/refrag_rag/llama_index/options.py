"""Arguments of a call, under the engine's names."""

from collections.abc import Mapping
from typing import Any

from refrag_rag.errors import InputError

_OPTIONS = {
    *("max_new_tokens", "stop", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("question", "policy", "p", "tools"),
}
_ALIASES = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}


def generation_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the engine's names; those that are None are left out.

    Raises
    ------
    InputError
        For a name that the engine does not take.
    """
    options = {_ALIASES.get(name, name): value for name, value in given.items()}
    sample = options.pop("do_sample", None)
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InputError(
            f"unknown generation arguments {unknown}; expected some of {sorted(_OPTIONS)}. "
            "Remove them from the call or from generate_kwargs."
        )
    if sample is not None:
        options["temperature"] = (options.get("temperature") or 1.0) if sample else 0.0
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    return {name: value for name, value in options.items() if value is not None}


def tool_names(options: Mapping[str, Any]) -> list[str]:
    """Names of the tools that a call gives."""
    return [tool["function"]["name"] for tool in options.get("tools") or ()]
