"""What all backends share: input embeddings that are checked, and how to sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from refrag_rag.errors import InputError, ServingError
from refrag_rag.generation.answering import end_tokens
from refrag_rag.generation.decode import Token, room
from refrag_rag.generation.request import Sampling
from refrag_rag.model import RefragModel
from refrag_rag.prompt import CompressedPrompt

Job = tuple[Tensor, dict[str, Any]]
"""Input embeddings, *shape* (T, D_dec), and the names and values of vLLM's sampling parameters."""


class Remote(ABC):
    """A decoder elsewhere. It is shared instead of copied, and stays in its process."""

    @property
    @abstractmethod
    def window(self) -> int:
        """Positions of prompt and answer together."""

    @abstractmethod
    def _decode(
        self, jobs: Sequence[Job], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]: ...

    def decode(
        self,
        model: RefragModel,
        prompts: Sequence[CompressedPrompt],
        sampling: Sampling,
        *,
        stopped: Callable[[int], bool],
    ) -> Generator[list[Token], None, None]:
        """Generate for a batch; see `refrag_rag.generation.decode.decode`.

        Raises
        ------
        InputError
            For a repetition penalty.
        PromptTooLongError
            If a prompt leaves no position for a new token.
        ServingError
            If input embeddings are not finite, or vLLM refuses them or fails.
        """
        window = min(self.window, model.max_positions)
        parameters = [_parameters(model, prompt, sampling, window) for prompt in prompts]
        embeds = [_embeds(model, prompt) for prompt in prompts]
        return self._decode(list(zip(embeds, parameters, strict=True)), stopped)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remote":
        """Share it."""
        return self

    def __reduce__(self) -> Any:
        """Refuse: what it holds belongs to this process."""
        raise InputError(
            f"A {type(self).__name__} cannot go to another process; expected the base URLs of "
            "servers. Give those as backend=."
        )


def _embeds(model: RefragModel, prompt: CompressedPrompt) -> Tensor:
    with torch.inference_mode():
        found = model.decoder_inputs([prompt]).inputs_embeds[0].cpu()  # (T, D_dec)
    if not torch.isfinite(found).all():  # vLLM would answer with what comes of it
        raise ServingError(
            "The prompt's input embeddings are not finite; expected numbers. Load the model in "
            "float32 or bfloat16, and check the store: refrag store verify."
        )
    return found


def _parameters(
    model: RefragModel, prompt: CompressedPrompt, sampling: Sampling, window: int
) -> dict[str, Any]:
    """All of them: vLLM takes what is not said from the decoder's files.

    Stop strings are not among them: they are found where the tokens become text, which is here.
    """
    if sampling.repetition_penalty != 1:
        raise InputError(
            f"repetition_penalty = {sampling.repetition_penalty!r}; expected 1 with a backend: "
            "vLLM would count what stands in for the prompt's tokens. Leave it out."
        )
    seed = sampling.seed
    return {
        "max_tokens": room(prompt, window, sampling),
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": int(sampling.top_k),
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": seed if seed is None or seed < 2**63 else seed - 2**64,  # its seeds are signed
        "stop_token_ids": sorted(end_tokens(model)),
    }
