"""Arguments of calls, roles and tools, as both frameworks give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.generation.request import SAMPLING, Sampling, known_arguments
from refrag_rag.policies import get_policy, limit_of
from refrag_rag.text.chat_template import Tool, check_tools

# Names of roles in the frameworks, and those that chat templates know.
ROLES = {
    "human": "user",
    "ai": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
}


def check_defaults(engine: Refrag | None, **given: Any) -> None:
    """Check generation arguments when a component is built, not at its first question.

    Those that are None are passed over. An engine knows the policies of its model, if it is loaded
    already. One that is unknown or cannot be used is an `InputError`.
    """
    options = known_arguments({name: one for name, one in given.items() if one is not None})
    Sampling(**{name: options[name] for name in SAMPLING if name in options})
    if "p" in options:
        limit_of(options["p"], 0)
    policy = options.get("policy")
    if engine is not None:
        engine.get_policy(policy)
    elif policy is not None and not isinstance(policy, str):
        get_policy(policy)


def choose_tools(tools: Sequence[Tool], choice: Any) -> list[Tool]:
    """The tools that are offered to the model.

    Parameters
    ----------
    tools
        In OpenAI's shape.
    choice
        ``"auto"``, ``"any"``, ``"required"``, True or None: all, since no model can be forced to
        call one. ``"none"`` or False: none. A name, or OpenAI's dict with one: that one alone.

    Raises
    ------
    InputError
        If it names no tool.
    """
    if choice in (False, "none"):
        return []
    if choice is None or choice is True or choice in ("auto", "any", "required"):
        return list(tools)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else choice
    chosen = [tool for tool in tools if tool["function"]["name"] == name]
    if not chosen:
        raise InputError(
            f"tool_choice = {choice!r}; expected auto, any, none or the name of one of "
            f"{tool_names(tools)}."
        )
    return chosen


def tool_names(tools: Sequence[Tool] | None) -> list[str]:
    """Names of tools; one that is not in OpenAI's shape is an `InputError`."""
    return [tool["function"]["name"] for tool in check_tools(tools)]


def openai_call(id_: str | None, name: str, arguments: Any) -> dict[str, Any]:
    """A tool call in OpenAI's shape."""
    return {"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}
