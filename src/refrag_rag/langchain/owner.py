"""EngineOwner: components that are given an engine, or build one from settings on first use."""

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field

from refrag_rag.errors import InputError

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag

_sharing = threading.Lock()
_shared: "WeakValueDictionary[str, EngineHandle]" = WeakValueDictionary()


class EngineHandle:
    """An engine, or the settings of one that is loaded when it is first needed.

    Parameters
    ----------
    engine
        A built engine.
    settings
        Otherwise: the arguments of `Refrag.load`.
    """

    def __init__(
        self, engine: "Refrag | None" = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.given = engine is not None
        self._engine = engine
        self._settings = dict(settings or {})
        self._loading = threading.Lock()

    @classmethod
    def shared(cls, settings: Mapping[str, Any]) -> "EngineHandle":
        """Return the one handle for these settings, as long as somebody holds it."""
        key = repr(sorted(settings.items()))
        with _sharing:
            handle = _shared.get(key)
            if handle is None:
                handle = _shared[key] = cls(settings=settings)
            return handle

    def get(self) -> "Refrag":
        """Return the engine, loaded by the first caller while the others wait."""
        with self._loading:
            if self._engine is None:
                # Imported here: whoever only marks documents needs no torch.
                from refrag_rag.engine import Refrag

                self._engine = Refrag.load(**self._settings)
            return self._engine

    def __deepcopy__(self, memo: dict[int, Any]) -> "EngineHandle":
        """Share the engine between copies."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings without the engine, which the other process loads again.

        Raises
        ------
        InputError
            If the engine was passed in: the other process would quietly build a different one.
        """
        if self.given:
            raise InputError(
                "A component that was given a built engine cannot go to another process; "
                "give it model_name= and store= instead."
            )
        return EngineHandle.shared, (self._settings,)


class EngineOwner(BaseModel):
    """Mixin: settings as fields, and the engine beside them.

    Parameters
    ----------
    engine
        A built engine; then no other setting of this class may be given.

    Raises
    ------
    InputError
        If an engine and settings for another one are given.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model_name: str = Field(default="smol", description="Name or folder of the model.")
    store: str | None = Field(default=None, description="Folder of the store; None: memory.")
    load_kwargs: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Other arguments of Refrag.load."
    )
    # A field, not a private attribute: `configurable_fields` rebuilds components from fields.
    handle: EngineHandle | None = Field(default=None, exclude=True, repr=False)

    def __init__(self, engine: "Refrag | None" = None, **data: Any) -> None:
        handle = data.get("handle")
        if engine is None and handle is not None and handle.given:
            engine = handle.get()
        if isinstance(data.get("store"), os.PathLike):
            data["store"] = os.fspath(data["store"])
        if engine is not None:
            _refuse_both(engine, data)
            data |= {"model_name": engine.model_name, "handle": EngineHandle(engine)}
        super().__init__(**data)
        self._hold()

    @property
    def engine(self) -> "Refrag":
        """The engine; components with equal settings share one.

        Raises
        ------
        RefragError
            If it cannot be loaded.
        """
        return self._hold().get()

    def _hold(self) -> EngineHandle:
        """Return the handle for the settings as they are now; copies may have changed them."""
        if self.handle is None or not self.handle.given:
            place = None if self.store is None else os.path.abspath(self.store)
            settings = {"name_or_path": self.model_name, "store": place, **self.load_kwargs}
            self.handle = EngineHandle.shared(settings)
        return self.handle


def _refuse_both(engine: "Refrag", data: Mapping[str, Any]) -> None:
    names = [name for name in ("store", "load_kwargs") if data.get(name)]
    if data.get("model_name", engine.model_name) != engine.model_name:
        names.append("model_name")
    if names:
        raise InputError(
            f"engine= was given together with {', '.join(names)}; expected one or the other. "
            "Set these when the engine is built (Refrag.load)."
        )
