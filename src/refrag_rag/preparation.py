"""Prompts to what the decoder reads: parse, look up, choose, lay out."""

import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from refrag_rag.assembly import Prompt, assemble, parse
from refrag_rag.lookup import PassageLookup, expand
from refrag_rag.model import RefragModel
from refrag_rag.policies import Policy, budget
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.spans import Span, split_spans
from refrag_rag.tokenization import PromptTokenizer

OnMiss = Literal["encode", "text"]


class Laps(NamedTuple):
    """Seconds of each part of the preparation.

    Attributes
    ----------
    lookup_s
        Finding spans, cutting and reading the store.
    encode_s
        Encoding what the store had not.
    assemble_s
        Policy, and laying out the prompt.
    """

    lookup_s: float
    encode_s: float
    assemble_s: float


class Preparation:
    """Lays out prompts for one model. Threads may share it.

    Parameters
    ----------
    model
        Gives tokenizer, chunker and boundary tokens.
    lookup
        Finds passages.
    on_miss
        What to do with passages that the store has not.
    """

    def __init__(self, model: RefragModel, lookup: PassageLookup, on_miss: OnMiss) -> None:
        self._model, self._lookup, self._on_miss = model, lookup, on_miss
        self._slots = PromptTokenizer(model.tokenizer)
        self._lock = threading.Lock()

    def prepare(
        self, prompts: Sequence[Prompt], *, question: str | None, policy: Policy, p: float
    ) -> tuple[list[CompressedPrompt], Laps]:
        """Lay out prompts, with the time that each part took."""
        started = time.perf_counter()
        model = self._model
        with self._lock:  # new slots may be added to the prompt tokenizer
            parsed = [
                parse(prompt, model.tokenizer, self._slots, markup=model.config.boundary)
                for prompt in prompts
            ]
        texts = list(dict.fromkeys(span.text for one in parsed for span in one.spans))
        found = self._lookup.find(texts, encode=self._on_miss == "encode")
        looked_up = time.perf_counter()
        compressed = [
            assemble(
                one,
                expand(one, found, policy, p, question),
                model.tokenizer,
                chunk_ids=model.chunk_ids,
                boundary=model.boundary,
            )
            for one in parsed
        ]
        done = time.perf_counter()
        encoding = sum(passage.encode_s for passage in found.values())
        return compressed, Laps(looked_up - started - encoding, encoding, done - looked_up)

    def tokenize(self, text: str, p: float) -> list[int]:
        """Token ids of a text, pad ids in place of its vectors and expanded chunks.

        With tokens around each run of vectors, the most that there can be.
        """
        model = self._model
        ids: list[int] = []
        for piece in split_spans(text, model.config.boundary):
            if isinstance(piece, Span):
                chunks = len(model.chunker.chunk(piece.text))
                expanded = budget(p, chunks)
                around = 2 * (expanded + 1) if model.boundary else 0
                ids += [model.pad_id] * (chunks + expanded * (model.config.k - 1) + around)
            else:
                ids += model.tokenizer(piece, add_special_tokens=False).input_ids
        return ids
