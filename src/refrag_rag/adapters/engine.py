"""The engine behind a component: passed in, or loaded from settings when it is first needed."""

import os
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError, RefragError
from refrag_rag.serving import backend_of

_sharing = threading.Lock()
_shared: "WeakValueDictionary[str, EngineHandle]" = WeakValueDictionary()


class EngineHandle:
    """An engine that was passed in, or settings of one that is loaded when it is first needed.

    Attributes
    ----------
    given
        Whether the engine was passed in.
    loaded
        The engine, if there is one already.
    """

    def __init__(self, engine: Refrag | None, settings: dict[str, Any]) -> None:
        self.given = engine is not None
        self.loaded = engine
        self._settings = settings
        self._loading = threading.Lock()

    @classmethod
    def shared(cls, settings: dict[str, Any]) -> "EngineHandle":
        """Return the one handle for these settings, as long as somebody holds it."""
        with _sharing:
            return _shared.setdefault(repr(sorted(settings.items())), cls(None, settings))

    def get(self) -> Refrag:
        """Return the engine, loaded by the first caller while the others wait."""
        with self._loading:
            if self.loaded is None:
                try:
                    self.loaded = Refrag.load(**self._settings)
                except (ValueError, TypeError) as error:
                    raise RefragError(
                        f"The engine cannot be loaded ({error}); expected arguments of "
                        "Refrag.load. Correct model_name, store or load_kwargs."
                    ) from error
            return self.loaded

    def __deepcopy__(self, memo: dict[int, Any]) -> "EngineHandle":
        """Share the engine between copies."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings; the other process loads the engine again."""
        return EngineHandle.shared, (self._settings,)


class EngineOwner(BaseModel):
    """Mixin of components: settings as fields, and the engine beside them.

    ``backend`` is vLLM, which decodes instead of the model: base URLs of servers or an engine
    object. It is kept among `load_kwargs`.

    Raises
    ------
    InputError
        If an engine and settings for another one are given, or the engine is none.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model_name: str = Field(default="smol", description="Name or folder of the model.")
    store: str | None = Field(default=None, description="Folder of the store; None: memory.")
    load_kwargs: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Other arguments of Refrag.load."
    )
    # A field, not a private attribute: LangChain's `configurable_fields` builds from fields.
    handle: EngineHandle | None = Field(default=None, exclude=True, repr=False)

    def __init__(self, engine: Refrag | None = None, **data: Any) -> None:
        handle = data.get("handle")
        if engine is None and handle is not None and handle.given:
            engine = handle.loaded
        if isinstance(data.get("store"), os.PathLike):
            data["store"] = os.fspath(data["store"])
        if engine is not None:
            check_engine(engine)
            _refuse_both(engine, data)
            data |= {"model_name": engine.model_name, "handle": EngineHandle(engine, {})}
        if (backend := data.pop("backend", None)) is not None:
            kept = backend if isinstance(backend, str | list) else backend_of(backend)
            data["load_kwargs"] = {**data.get("load_kwargs", {}), "backend": kept}
        super().__init__(**data)
        self._hold()

    @property
    def engine(self) -> Refrag:
        """The engine; components with equal settings share one, loaded when first needed."""
        return self._hold().get()

    @field_serializer("load_kwargs")
    def _without_secrets(self, value: dict[str, Any]) -> dict[str, Any]:
        plain = {name: item for name, item in value.items() if name != "token"}
        if not isinstance(plain.get("backend", ""), str | list):
            plain["backend"] = repr(plain["backend"])  # an engine of this process
        return plain

    def __getstate__(self) -> dict[Any, Any]:
        """Settings without the engine, which the receiving process loads again.

        An engine or backend that was passed in is an `InputError`: that process would build a
        different one.
        """
        if self._hold().given or not isinstance(self.load_kwargs.get("backend", ""), str | list):
            raise no_other_process()
        return super().__getstate__()

    def _hold(self) -> EngineHandle:
        """Return the handle for the settings as they are now; copies may have changed them."""
        if self.handle is None or not self.handle.given:
            place = None if self.store is None else os.path.abspath(self.store)
            settings = {"name_or_path": self.model_name, "store": place, **self.load_kwargs}
            self.handle = EngineHandle.shared(settings)
        return self.handle


def check_engine(engine: object) -> None:
    """Refuse what is no engine, such as the name of a model, with an `InputError`."""
    if not hasattr(engine, "precompute"):
        raise InputError(
            f"engine = {engine!r:.80}; expected an engine. Write Refrag.load({engine!r:.80}), or "
            "model_name=."
        )


def no_other_process() -> InputError:
    """The error for pickling a component that was given a built engine."""
    return InputError(
        "A component that was given a built engine cannot go to another process; give it "
        "model_name=, store= and URLs as backend= instead, or build it there."
    )


def _refuse_both(engine: Refrag, data: Mapping[str, Any]) -> None:
    names = [name for name in ("store", "load_kwargs", "backend") if data.get(name)]
    if data.get("model_name", engine.model_name) != engine.model_name:
        names.append("model_name")
    if names:
        raise InputError(
            f"engine= was given together with {', '.join(names)}; expected one or the other. "
            "Set these when the engine is built (Refrag.load)."
        )
