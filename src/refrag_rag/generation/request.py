"""What a call asks for, checked before anything is done. No torch here."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.policies import Policy, limit_of
from refrag_rag.text.chat_template import Tool

ALIASES = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is written. Temperature 0 takes the likeliest token.

    The repetition penalty counts the answer's own tokens, not the prompt's.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    max_new_tokens: int = 64
    stop: Sequence[str] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, (kinds, fits, expected) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not fits(value):
                raise InputError(f"{name} = {value!r}; expected {expected}.")


# Of each field of `Sampling`: its types, whether a value fits, and what to say if not.
RANGES: Mapping[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "max_new_tokens": ((Integral,), lambda n: n >= 1, "at least 1"),
    "stop": (
        (Sequence,),
        lambda stops: all(isinstance(one, str) and one for one in stops),
        "strings that are not empty",
    ),
    "temperature": ((Real,), lambda t: t >= 0, "0 or more"),
    "top_p": ((Real,), lambda p: 0 < p <= 1, "above 0, at most 1"),
    "top_k": ((Integral,), lambda k: k >= 0, "0 (off) or more"),
    "repetition_penalty": ((Real,), lambda r: r > 0, "above 0"),
    "seed": (
        (Integral, type(None)),
        lambda s: s is None or -(2**63) <= s < 2**64,
        "a whole number",
    ),
}
SAMPLING = tuple(one.name for one in fields(Sampling))
ARGUMENTS = (*SAMPLING, "question", "policy", "p", "tools")


@dataclass(frozen=True, kw_only=True)
class Request:
    """How prompts are to be read and answered.

    Attributes
    ----------
    policy, p
        Who chooses the chunks that stay text, and the largest share of them.
    question
        What the policy is asked; None: what each prompt asks.
    tools
        Functions that the model may call.

    Raises
    ------
    InputError
        If a value cannot be used.
    """

    policy: Policy
    p: float
    question: str | None = None
    tools: Sequence[Tool] | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        """Check what is not checked by its own type."""
        limit_of(self.p, 0)
        if not isinstance(self.question, str | None):
            raise InputError(f"question = {self.question!r}; expected text, or None.")


def build_request(policy: Policy, p: float, arguments: Mapping[str, Any]) -> Request:
    """A request with these arguments, checked as `known_arguments` and the two types check them."""
    given = known_arguments(arguments)
    sampling = Sampling(**{name: given.pop(name) for name in SAMPLING if name in given})
    return Request(policy=policy, p=p, sampling=sampling, **given)


def known_arguments(given: Mapping[str, Any], names: Sequence[str] = ARGUMENTS) -> dict[str, Any]:
    """Arguments under the engine's names.

    Raises
    ------
    InputError
        For a name that the engine does not take.
    """
    options = {ALIASES.get(name, name): value for name, value in given.items()}
    if unknown := sorted(options.keys() - set(names)):
        raise InputError(
            f"Unknown arguments {unknown}; expected some of {sorted(names)}. Remove them."
        )
    return options


def check_batch_size(size: Any) -> int:
    """The size itself.

    Raises
    ------
    InputError
        If it is no whole number of at least 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size = {size!r}; expected at least 1.")
    return size


def checked_texts(texts: Any) -> Iterable[str]:
    """Passages: a list at once, a stream one by one as they come.

    Raises
    ------
    InputError
        If it is no sequence of texts.
    """
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise InputError(f"texts = {texts!r:.80}; expected a list of passages. Put it in a list.")
    return list(_checked(texts)) if isinstance(texts, Sized) else _checked(texts)


def _checked(texts: Any) -> Iterator[str]:
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Passage {place} is {text!r:.80}; expected text.")
        yield text
