"""Decoding in vLLM: prompts are laid out here and decoded there, from their input embeddings."""

from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.generation.answering import Backend
from refrag_rag.serving.engine import AsyncEngine, Engine
from refrag_rag.serving.server import Server

__all__ = ["AsyncEngine", "Engine", "Server", "backend_of"]


def backend_of(given: Any) -> Backend:
    """What decodes, from what users give.

    Parameters
    ----------
    given
        Base URLs of vLLM servers, one or a list; a `Server`; or vLLM's ``LLM`` or ``AsyncLLM``.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(given, str | list | tuple):
        return Server(given)
    if isinstance(given, Server | Engine | AsyncEngine):
        return given
    if hasattr(given, "llm_engine"):
        return Engine(given)
    if hasattr(given, "generate") and hasattr(given, "model_config"):
        return AsyncEngine(given)
    raise InputError(
        f"backend = {given!r:.80}; expected base URLs of vLLM servers (http://HOST:8000/v1), or an "
        "LLM or AsyncLLM of vLLM."
    )
