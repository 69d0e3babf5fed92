"""Prompts to what the decoder reads: parse, look up, choose, lay out."""

import threading
import time
from collections.abc import Sequence
from typing import Literal

from refrag_rag.engine.lookup import PassageLookup
from refrag_rag.engine.select import expand
from refrag_rag.errors import InputError
from refrag_rag.generation.answer import Timings
from refrag_rag.generation.request import Request
from refrag_rag.model import RefragModel
from refrag_rag.policies import QUESTION, limit_of, needs_of
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.prompt.assemble import ParsedPrompt, assemble, parse
from refrag_rag.spans import Span, split_spans
from refrag_rag.text.chat_template import Prompt
from refrag_rag.text.tokenization import PromptTokenizer, readable

OnMiss = Literal["encode", "text"]


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
        if on_miss not in ("encode", "text"):
            raise InputError(f"on_miss = {on_miss!r}; expected 'encode' or 'text'.")
        self._model, self._lookup, self._on_miss = model, lookup, on_miss
        self._slots = PromptTokenizer(model.tokenizer)
        self._lock = threading.Lock()

    def prepare(
        self, prompts: Sequence[Prompt], request: Request
    ) -> tuple[list[CompressedPrompt], Timings]:
        """Lay out prompts; the timings of all that comes before the prefill."""
        started = time.perf_counter()
        model = self._model
        parsed = self._parse(prompts, request)
        passages = list(dict.fromkeys(span.text for one in parsed for span in one.spans))
        needs = needs_of(request.policy)
        found = self._lookup.find(passages, encode=self._on_miss == "encode", needs=needs)
        looked_up = time.perf_counter()
        wanted = [one.question for one in parsed if one.spans] if QUESTION in needs else []
        embeddings = self._lookup.embed(wanted) if wanted else {}
        embedded = time.perf_counter() if wanted else looked_up
        compressed = [
            assemble(
                one,
                expand(one, found, request, embeddings.get(one.question)),
                model.tokenizer,
                chunk_ids=model.chunk_ids,
                boundary=model.boundary,
            )
            for one in parsed
        ]
        encoding = sum(passage.encode_s for passage in found.values())
        return compressed, Timings(
            lookup_s=looked_up - started - encoding,
            encode_s=encoding + (embedded - looked_up),
            assemble_s=time.perf_counter() - embedded,
        )

    def tokenize(self, text: str, p: float) -> list[int]:
        """Token ids of a text, pad ids in place of its vectors and expanded chunks.

        With tokens around each run of vectors, the most that there can be.
        """
        model = self._model
        ids: list[int] = []
        for piece in split_spans(text, model.config.markup):
            if isinstance(piece, Span):
                lengths = model.chunker.chunk(piece.text).chunk_lengths
                chunks, longest = len(lengths), max((model.config.k, *lengths))
                expanded = limit_of(p, chunks)
                around = 2 * (expanded + 1) if model.boundary else 0
                ids += [model.pad_id] * (chunks + expanded * (longest - 1) + around)
            else:
                ids += model.tokenizer(readable(piece), add_special_tokens=False).input_ids
        return ids

    def _parse(self, prompts: Sequence[Prompt], request: Request) -> list[ParsedPrompt]:
        with self._lock:  # new slots may be added to the prompt tokenizer
            return [
                parse(
                    prompt,
                    self._model.tokenizer,
                    self._slots,
                    markup=self._model.config.markup,
                    question=request.question,
                    tools=request.tools,
                )
                for prompt in prompts
            ]
