"""KV caches kept between calls: the next turn of a chat prefills only what is new.

A cached prefix counts only as far as the decoder would read the very same inputs again: equal
token ids and equal chunk embeddings. Whoever reuses it gets a copy, cropped so that at least one
position is left to compute.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from refrag_rag.errors import InputError
from refrag_rag.model import RefragModel
from refrag_rag.model.fingerprint import State, weights_state
from refrag_rag.model.graphs import reads_every_position
from refrag_rag.prompt import VECTOR, CompressedPrompt

LEAST = 16  # positions; for fewer the attention mask costs more than is saved


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a decoder has read.

    Attributes
    ----------
    ids
        *Shape:* (T,), token ids and `VECTOR`.
    embeddings
        *Shape:* (V, D_enc), the chunk embeddings in reading order.
    """

    ids: NDArray[np.int64]
    embeddings: NDArray[Any]

    def shared(self, other: "Inputs", *, whole_runs: bool) -> int:
        """Positions at the beginning that are equal in both.

        Parameters
        ----------
        whole_runs
            Whether a vector is projected in sight of its run, so that runs count as a whole.
        """
        length = min(len(self.ids), len(other.ids))
        length = _first(self.ids[:length] != other.ids[:length])
        places = np.flatnonzero(self.ids[:length] == VECTOR)
        rows = len(places)
        equal = _first((self.embeddings[:rows] != other.embeddings[:rows]).any(1)) if rows else 0
        if equal < rows:
            length = int(places[equal])
        if whole_runs and any(length < len(one.ids) and one.cuts(length) for one in (self, other)):
            text = np.flatnonzero(self.ids[:length] != VECTOR)
            length = int(text[-1]) + 1 if len(text) else 0
        return length

    def cuts(self, place: int) -> bool:
        """Whether `place` lies between two vectors of one run."""
        return place > 0 and bool((self.ids[place - 1 : place + 1] == VECTOR).all())


@dataclass(frozen=True, eq=False)
class Entry:
    """A KV cache with the inputs that it stands for. Neither is ever changed.

    Attributes
    ----------
    prompt
        Positions of the prompt; the answer's follow.
    """

    inputs: Inputs
    prompt: int
    cache: DynamicCache


class PromptCache:
    """The KV caches of the prompts and answers that were read last. Threads may share it.

    All are forgotten when weights of the decoder or projector have changed (`weights_state`).

    Parameters
    ----------
    model
        Whose decoder made them.
    limit
        How many to keep; 0 keeps none. The one that was used longest ago goes first.

    Raises
    ------
    InputError
        If the limit is negative.
    """

    def __init__(self, model: RefragModel, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InputError(f"prompt_cache = {limit!r}; expected how many to keep, 0 for none.")
        self._model, self._limit = model, limit
        self._entries: list[Entry] = []  # the one used last stands last
        self._state: tuple[State, State] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all KV caches that are kept."""
        return sum(cache_bytes(entry.cache) for entry in list(self._entries))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()

    def start(self, prompts: Sequence[CompressedPrompt]) -> "Reuse | None":
        """Look for the longest known beginning of a prompt; batches are read without."""
        if not self._limit or len(prompts) != 1 or not reusable_config(self._model):
            return None
        inputs = _inputs(prompts[0])
        whole = self._model.projector.needs_runs
        known = [(inputs.shared(one.inputs, whole_runs=whole), one) for one in self._current()]
        shared, entry = max(known, key=lambda pair: pair[0], default=(0, None))
        positions = min(shared, len(inputs.ids) - 1)
        if entry is None or positions < LEAST:
            return Reuse(self, inputs)
        self._touch(entry)
        return Reuse(self, inputs, positions, entry, entry if shared >= entry.prompt else None)

    def keep(self, entry: Entry, replaced: Entry | None) -> None:
        """Take an entry in, instead of the one that it goes on from."""
        with self._lock:
            self._entries = [one for one in self._entries if one is not replaced]
            self._entries = [*self._entries, entry][-self._limit :]

    def _current(self) -> list[Entry]:
        """Those that the weights as they are now have made."""
        state = (weights_state(self._model.decoder), weights_state(self._model.projector))
        with self._lock:
            if state != self._state:
                self._entries, self._state = [], state
            return list(self._entries)

    def _touch(self, entry: Entry) -> None:
        with self._lock:
            if entry in self._entries:
                self._entries.remove(entry)
                self._entries.append(entry)


@dataclass(frozen=True, eq=False)
class Reuse:
    """What one call takes from a `PromptCache` and gives to it.

    Attributes
    ----------
    positions
        How many positions need not be computed.
    entry
        Whose KV cache has them.
    replaced
        The entry that this call goes on from, and whose place it takes.
    """

    owner: PromptCache
    inputs: Inputs
    positions: int = 0
    entry: Entry | None = None
    replaced: Entry | None = None

    @torch.inference_mode()
    def cache(self) -> DynamicCache | None:
        """A copy of the KV cache for those positions."""
        if self.entry is None:
            return None
        copy = DynamicCache()
        for place, layer in enumerate(self.entry.cache.layers):
            keys, values = layer.keys, layer.values  # (1, heads, positions, width of a head)
            copy.update(keys[:, :, : self.positions], values[:, :, : self.positions], place)
        return copy

    def keep(self, cache: Any, answer: Sequence[int]) -> None:
        """Keep a KV cache, which belongs to the `PromptCache` from now on.

        Parameters
        ----------
        answer
            The new tokens; those that the decoder has read are in the KV cache.
        """
        if not reusable(cache):
            return
        prompt = self.inputs
        read = cache.get_seq_length() - len(prompt.ids)
        inputs = Inputs(
            np.concatenate([prompt.ids, np.array(answer[:read], np.int64)]),
            np.array(prompt.embeddings),  # a copy: the buffer is used again
        )
        self.owner.keep(Entry(inputs, len(prompt.ids), cache), self.replaced)


def reusable(cache: Any) -> bool:
    """Whether a cache keeps every position, so that a beginning can be cut off it."""
    return type(cache) is DynamicCache and all(
        type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers
    )


def reusable_config(model: RefragModel) -> bool:
    """Whether what a position gives depends on nothing but what stands before it, all of it.

    Not so with sliding windows, recurrent layers, and rotary positions scaled by the length.
    """
    config = model.decoder.config.get_text_config()
    return reads_every_position(model.decoder) and not _scaled_by_length(config)


def _scaled_by_length(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    settings = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(one.get("rope_type") in ("dynamic", "longrope") for one in settings)


def cache_bytes(cache: Any) -> int:
    """Bytes of the tensors of a KV cache."""
    tensors = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _inputs(prompt: CompressedPrompt) -> Inputs:
    runs = prompt.embeddings()
    return Inputs(prompt.ids, np.concatenate(runs) if runs else np.empty((0, 0), np.float32))


def _first(found: NDArray[np.bool_]) -> int:
    """The first True, or the length."""
    return int(found.argmax()) if found.any() else len(found)
