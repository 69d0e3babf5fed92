"""What both LangChain models share: generation settings, token counts, reports."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.messages.ai import UsageMetadata
from pydantic import Field

from refrag_rag.adapters.arguments import check_defaults
from refrag_rag.adapters.engine import EngineOwner
from refrag_rag.engine import Refrag
from refrag_rag.generation.answer import Answer
from refrag_rag.generation.request import SAMPLING, known_arguments

Stop = list[str] | None
_FIELDS = (
    *("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop"),
    *("p", "policy"),
)


class GenerationSettings(EngineOwner):
    """Mixin: defaults that a call may replace (``model.invoke(x, temperature=0.7)``).

    ``max_new_tokens`` is understood for ``max_tokens``; a call may also give ``question``.
    """

    max_tokens: int = Field(default=64, gt=0, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, description="0: the likeliest token.")
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = Field(default=None, description="Strings that end an answer.")
    p: float | None = Field(
        default=None, description="Share of chunks to expand; None: the engine's."
    )
    policy: Any = Field(default=None, description="Name or policy; None: the engine's.")

    _call_arguments: ClassVar[tuple[str, ...]] = (*SAMPLING, "p", "policy", "question")

    if TYPE_CHECKING:  # comes with LangChain's base classes
        custom_get_token_ids: Callable[[str], list[int]] | None

    def __init__(self, engine: Refrag | None = None, **data: Any) -> None:
        if "max_new_tokens" in data:
            data["max_tokens"] = data.pop("max_new_tokens")
        super().__init__(engine, **data)
        check_defaults(self._hold().loaded, **self._defaults)

    @property
    def _defaults(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What decides an answer: key of LangChain's caches. Loads nothing."""
        settings = self._defaults
        handle = self._hold()
        if handle.given:
            settings["p"] = handle.get().p if self.p is None else self.p
            settings["policy"] = self.policy or handle.get().policy
        settings["policy"] = getattr(settings["policy"], "name", settings["policy"])
        loading = {name: value for name, value in self.load_kwargs.items() if name != "token"}
        return {"model_name": self.model_name, **settings, "load_kwargs": loading}

    def get_token_ids(self, text: str) -> list[int]:
        """Return token ids; a span has as many as the positions it takes."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.engine.tokenize(text)

    def _arguments(self, stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the engine: the fields, replaced by what the call gives."""
        # LangChain hands "stream" on, which decides about streaming.
        call = {name: value for name, value in kwargs.items() if name != "stream"} | {"stop": stop}
        chosen = known_arguments(self._defaults)
        for name, value in known_arguments(call, self._call_arguments).items():
            if value is not None:
                chosen[name] = value
        if isinstance(chosen["stop"], str):
            chosen["stop"] = [chosen["stop"]]
        return {name: value for name, value in chosen.items() if value is not None}


def report(answer: Answer, model_name: str) -> dict[str, Any]:
    """Return counts, timings and finish reason of an answer, flat, with the model's name."""
    return {"model_name": model_name, **answer.metadata()}


def usage(*answers: Answer) -> UsageMetadata:
    """Return tokens as LangChain counts them; input tokens are decoder positions."""
    positions = sum(answer.counts.positions for answer in answers)
    new = sum(answer.counts.new_tokens for answer in answers)
    return UsageMetadata(input_tokens=positions, output_tokens=new, total_tokens=positions + new)
