"""Prefill and decoding steps without launch overhead: recorded once for a shape, then replayed.

A forward pass over a few hundred positions is bound by launching kernels one by one, and so is
every later token. A CUDA graph launches all of them at once, but for tensors of one shape at fixed
places: prompts are padded on the left to one of few lengths, and the KV cache is a static one.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from refrag_rag.model.inputs import DecoderInputs

LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)  # padded prompts
ROOM = 256  # positions behind a prompt for the answer; a longer one goes on without graphs
SHAPES = 8  # kept, each with the KV cache of its positions; the one used longest ago goes first
WARM_UPS = 3  # runs before a recording, in which libraries choose their kernels
ATTENTIONS = ("sdpa", "eager")  # that read a mask over pairs

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]
"""Makes something that does the same again, on the same tensors."""
logger = logging.getLogger(__name__)


def cuda_graph(run: Run) -> Run:
    """Record what a function launches, and replay it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class Graphs:
    """The recorded shapes of one decoder.

    One batch uses them at a time; what comes meanwhile is decoded without, and so is what does not
    fit: long prompts, sliding windows, recurrent layers, attention that reads no mask over pairs.

    Parameters
    ----------
    decoder
        On a CUDA device.
    capture
        How functions are recorded.
    """

    def __init__(self, decoder: PreTrainedModel, capture: Capture = cuda_graph) -> None:
        self._decoder, self._capture = decoder, capture
        self._shapes: OrderedDict[tuple[int, int], _Shape] = OrderedDict()
        self._lock = threading.Lock()
        self._refused = _refusal(decoder)
        if self._refused:
            logger.warning("decoding without graphs: %s", self._refused)

    def start(self, inputs: DecoderInputs) -> "GraphSteps | None":
        """Steps for a batch, to be closed after use; None if it must do without graphs."""
        rows, length = inputs.attention_mask.shape
        padded = next((size for size in LENGTHS if size >= length), None)
        if self._refused or padded is None or not self._lock.acquire(blocking=False):
            return None
        try:
            shape = self._shape(rows, padded)
        except Exception as error:  # a model that cannot be recorded says so in many ways
            self._lock.release()
            self._shapes.clear()
            self._refused = f"{type(self._decoder).__name__} cannot be recorded ({error})"
            logger.warning("decoding without graphs: %s", self._refused)
            return None
        return GraphSteps(shape, inputs, self._lock.release)

    def _shape(self, rows: int, length: int) -> "_Shape":
        key = rows, length
        if key not in self._shapes:
            while len(self._shapes) >= SHAPES:
                self._shapes.popitem(last=False)
            logger.info("recording %d prompts of up to %d positions", rows, length)
            self._shapes[key] = _Shape(self._decoder, self._capture, rows, length)
        self._shapes.move_to_end(key)
        return self._shapes[key]


class _Shape:
    """Tensors at fixed places for B prompts of P positions, and the two recordings over them."""

    def __init__(self, decoder: PreTrainedModel, capture: Capture, rows: int, length: int) -> None:
        table = decoder.get_input_embeddings().weight
        self.length, self.total = length, length + ROOM
        whole = {"dtype": torch.int64, "device": table.device}
        self.embeds = torch.zeros(rows, length, table.shape[1]).to(table)  # (B, P, D_dec)
        self.positions = torch.zeros(rows, length, **whole)  # (B, P)
        self.mask = torch.zeros(rows, 1, length, self.total).to(table)  # (B, 1, P, P + room)
        self.ids = torch.zeros(rows, 1, **whole)  # (B, 1)
        self.position = torch.zeros(rows, 1, **whole)  # (B, 1)
        self.step_mask = torch.zeros(rows, 1, 1, self.total).to(table)  # (B, 1, 1, P + room)
        config = decoder.config.get_text_config()
        self.cache: Any = StaticCache(config=config, max_cache_len=self.total)

        def prefill() -> Tensor:
            for layer in self.cache.layers:
                layer.cumulative_length.zero_()
            return self._logits(
                decoder,
                inputs_embeds=self.embeds,
                attention_mask=self.mask,
                position_ids=self.positions,
                logits_to_keep=1,
            )

        def step() -> Tensor:
            return self._logits(
                decoder,
                input_ids=self.ids,
                attention_mask=self.step_mask,
                position_ids=self.position,
            )

        with torch.inference_mode():
            prefill()  # the cache gets its tensors
            self.prefill, self.step = capture(prefill), capture(step)

    def _logits(self, decoder: PreTrainedModel, **read: Any) -> Tensor:
        output = decoder(**read, past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1]
        return logits


class GraphSteps:
    """Gives the next logits: of the prefill first, then of one more token a row."""

    def __init__(self, shape: _Shape, inputs: DecoderInputs, release: Callable[[], None]) -> None:
        self._shape, self._inputs, self._release = shape, inputs, release
        self._made = 0

    @property
    def read(self) -> int:
        """Tokens that were read behind the prompts, a row."""
        return self._made - 1

    @property
    def room(self) -> bool:
        """Whether there is a place for one more position."""
        return self._shape.length + self.read < self._shape.total

    @torch.inference_mode()
    def next(self, tokens: list[int]) -> Tensor:
        """Logits of *shape* (B, vocabulary).

        Parameters
        ----------
        tokens
            The last tokens, one a row; not looked at in the prefill.
        """
        shape = self._shape
        if self._made:
            shape.ids.copy_(torch.tensor(tokens)[:, None])
            shape.position.add_(1)
            shape.step_mask[..., shape.length + self.read] = 0
            logits = shape.step()
        else:
            self._lay_down()
            logits = shape.prefill()
        self._made += 1
        return logits.clone()

    def cache(self) -> DynamicCache:
        """A copy of the KV cache, as long as the inputs and the tokens that were read."""
        shape, copy = self._shape, DynamicCache()
        first = shape.length - self._inputs.attention_mask.shape[1]
        last = shape.length + self.read
        for place, layer in enumerate(shape.cache.layers):
            keys, values = layer.keys[:, :, first:last], layer.values[:, :, first:last]
            copy.update(keys.clone(), values.clone(), place)
        return copy

    def close(self) -> None:
        """Let another batch use the shapes."""
        self._release()

    def _lay_down(self) -> None:
        """The batch at the end of the padded places."""
        shape, (embeds, mask, positions, _) = self._shape, self._inputs
        gap = shape.length - mask.shape[1]
        lowest = torch.finfo(shape.mask.dtype).min
        shape.embeds.zero_()[:, gap:] = embeds
        shape.positions.zero_()[:, gap:] = positions
        shape.position.copy_(positions[:, -1:])
        read = torch.nn.functional.pad(mask.bool(), (gap, ROOM))  # (B, P + room)
        places = torch.arange(shape.total, device=read.device)
        rows = places[: shape.length, None]  # (P, 1)
        # padding sees itself, so that no row of the attention is empty
        seen = (read[:, None] & (places <= rows)) | (places == rows)  # (B, P, P + room)
        shape.mask.zero_().masked_fill_(~seen[:, None], lowest)
        shape.step_mask.zero_().masked_fill_(~read[:, None, None], lowest)


def reads_every_position(decoder: PreTrainedModel) -> bool:
    """Whether all layers attend to all positions before: no sliding windows, no recurrence."""
    config = decoder.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    return kinds == {"full_attention"} and not slides


def graphs_of(decoder: PreTrainedModel) -> Graphs | None:
    """Graphs for a decoder on a CUDA device; elsewhere there are none, which is logged."""
    if decoder.device.type == "cuda":
        return Graphs(decoder)
    logger.warning("compile = 'graphs' does nothing on %s; expected a CUDA device", decoder.device)
    return None


def _refusal(decoder: PreTrainedModel) -> str:
    """Why a decoder cannot be decoded by graphs; empty if it can."""
    if not reads_every_position(decoder):
        return f"{type(decoder).__name__} has layers that do not read every position"
    attention = decoder.config._attn_implementation
    return "" if attention in ATTENTIONS else f"{attention} attention reads no mask over pairs"
