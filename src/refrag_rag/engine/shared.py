"""What becomes of an engine that is copied: there is one, in one process."""

from typing import TYPE_CHECKING, Any

from refrag_rag.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11


class Shared:
    """Copies are the object itself; it is not pickled."""

    def __copy__(self) -> "Self":
        """Share the engine: copies of a configuration that holds it hold the same one."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Self":
        """Share the engine."""
        return self

    def __reduce__(self) -> Any:
        """Refuse: another process has to load an engine of its own."""
        raise InputError(
            "An engine cannot be pickled. Load it in the other process (Refrag.load), or give "
            "components model_name= and store= instead of an engine."
        )
