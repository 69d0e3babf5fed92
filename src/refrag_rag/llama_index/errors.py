"""Errors that LlamaIndex lets through."""

from collections.abc import Iterator
from contextlib import contextmanager

from refrag_rag.errors import RefragError


@contextmanager
def visible_errors() -> Iterator[None]:
    """Turn ValueError and TypeError into RefragError.

    LlamaIndex's synthesizers swallow both, and the answer becomes "Empty Response".
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RefragError(f"{type(error).__name__} in the model: {error}") from error
