"""EngineOwner: components that are given an engine, or build one from settings on first use."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer
from llama_index.core.schema import BaseComponent

from refrag_rag.errors import InputError, RefragError

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag

_SETTINGS = ("store", "device_map", "model_kwargs")
_loading = threading.Lock()
_loaded: "WeakValueDictionary[str, Refrag]" = WeakValueDictionary()


class EngineOwner(BaseComponent):
    """Mixin: settings as fields, the engine beside them.

    Parameters
    ----------
    engine
        A built engine; then no other setting of this class may be given.
    model_name
        Name or folder of a model, loaded on first use.
    store
        Folder of the store; None keeps the vectors in memory.
    device_map
        As in `transformers`.
    model_kwargs
        Other arguments of `Refrag.load`.

    Raises
    ------
    InputError
        If an engine and settings for another one are given.
    """

    model_name: str = Field(default="smol", description="Name or folder of the model.")
    store: str | None = Field(default=None, description="Folder of the store; None: memory.")
    device_map: str | dict[str, Any] | None = Field(default=None, description="As transformers.")
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Other arguments of Refrag.load."
    )
    _engine: "Refrag | None" = PrivateAttr(default=None)
    _given: bool = PrivateAttr(default=False)

    def __init__(self, engine: "Refrag | None" = None, **data: Any) -> None:
        if isinstance(data.get("store"), os.PathLike):
            data["store"] = os.fspath(data["store"])
        if engine is not None:
            _refuse_both([name for name in _SETTINGS if data.get(name)])
            data.setdefault("model_name", engine.model_name)
        super().__init__(**data)
        self._engine = engine
        self._given = engine is not None

    @field_serializer("model_kwargs")
    def _without_secrets(self, value: dict[str, Any]) -> dict[str, Any]:
        return {name: item for name, item in value.items() if name != "token"}

    @property
    def engine(self) -> "Refrag":
        """The engine; equal settings share one.

        Raises
        ------
        RefragError
            If it cannot be loaded.
        """
        if self._engine is None:
            with visible_errors():
                options = {"device_map": self.device_map, **self.model_kwargs}
                self._engine = _load(self.model_name, self.store, options)
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        """Keep the settings without the engine, which the receiving process builds again.

        Raises
        ------
        InputError
            If the engine was passed in: the other process would quietly build a different one.
        """
        if self._given:
            raise InputError(
                f"{self.class_name()} was given a built engine, which cannot go to another "
                "process; give model_name= and store= instead."
            )
        alone = self.model_copy()
        alone._engine = None
        return super(EngineOwner, alone).__getstate__()


@contextmanager
def visible_errors() -> Iterator[None]:
    """Turn ValueError and TypeError into RefragError.

    LlamaIndex's synthesizers swallow both, and the answer becomes "Empty Response".
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RefragError(f"{type(error).__name__} in the model: {error}") from error


def _load(model_name: str, store: str | None, options: dict[str, Any]) -> "Refrag":
    # Imported here: whoever only marks passages needs no torch.
    from refrag_rag.engine import Refrag

    place = None if store is None else os.path.abspath(store)
    key = repr((model_name, place, sorted(options.items())))
    with _loading:
        engine = _loaded.get(key)
        if engine is None:
            engine = _loaded[key] = Refrag.load(model_name, store=store, **options)
        return engine


def _refuse_both(names: list[str]) -> None:
    if names:
        raise InputError(
            f"engine= was given together with {', '.join(names)}; expected one or the other. "
            "Set these when the engine is built (Refrag.load)."
        )
