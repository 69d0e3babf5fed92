"""What an engine cannot do whose decoder is elsewhere."""

from collections.abc import Mapping
from typing import Any

from refrag_rag.engine.scoring import SCORERS
from refrag_rag.errors import InputError
from refrag_rag.generation.answering import Backend
from refrag_rag.model import RefragModel
from refrag_rag.policies import Policy, needs_of
from refrag_rag.serving import backend_of

DECODER = ("adapter", "quantization")  # settings of loading that are about the decoder's layers


def backend_for(model: RefragModel, given: Any, **of_decoder: Any) -> Backend | None:
    """What decodes instead of the model's decoder; None: nothing does.

    Parameters
    ----------
    of_decoder
        What the engine was asked to do with its decoder besides.

    Raises
    ------
    InputError
        If it was asked for any of that, there is no such backend, or nothing can decode.
    """
    if given is None:
        if not model.decoder.config.get_text_config().num_hidden_layers:
            raise InputError(
                "The model was loaded without its decoder's layers; expected a backend that "
                "decodes. Give backend=, or load it whole."
            )
        return None
    _refuse(of_decoder)
    return backend_of(given)


def without_layers(settings: dict[str, Any], **of_decoder: Any) -> dict[str, Any]:
    """Settings that load a model without its decoder's layers.

    Raises
    ------
    InputError
        If some say how the decoder is run.
    """
    _refuse(of_decoder | {name: settings[name] for name in DECODER if name in settings})
    return {**settings, "layers": False}


def check_policy(policy: Policy) -> None:
    """Refuse a policy that needs scores of the decoder.

    Raises
    ------
    InputError
        If it does.
    """
    if scores := needs_of(policy) & set(SCORERS):
        raise InputError(
            f"policy = {policy.name!r} needs {', '.join(scores)}, which the decoder's layers give; "
            "with a backend they are elsewhere. Choose another policy."
        )


def _refuse(given: Mapping[str, Any]) -> None:
    if names := [f"{name} = {one!r}" for name, one in given.items() if one or name in DECODER]:
        raise InputError(
            f"{', '.join(names)} with a backend; expected neither: the decoder is elsewhere, and "
            "runs as it was started. Leave them out."
        )
