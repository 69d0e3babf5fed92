"""Prompts to what the decoder reads: parse, look up, choose, lay out."""

import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from refrag_rag.engine.lookup import PassageLookup
from refrag_rag.engine.select import Asked, expand
from refrag_rag.generation.request import Request
from refrag_rag.model import RefragModel
from refrag_rag.policies import QUESTION, limit_of, needs_of
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.prompt.assemble import ParsedPrompt, assemble, parse
from refrag_rag.spans import Span, split_spans
from refrag_rag.text.chat_template import Prompt
from refrag_rag.text.tokenization import PromptTokenizer, readable

OnMiss = Literal["encode", "text"]


class Laps(NamedTuple):
    """Seconds of each part of the preparation.

    Attributes
    ----------
    lookup_s
        Finding spans, cutting and reading the store.
    encode_s
        Encoding and scoring what the store had not, and the question if the policy needs it.
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
        self,
        prompts: Sequence[Prompt],
        request: Request,
    ) -> tuple[list[CompressedPrompt], Laps]:
        """Lay out prompts, with the time that each part took."""
        started = time.perf_counter()
        model = self._model
        with self._lock:  # new slots may be added to the prompt tokenizer
            parsed = [
                parse(
                    prompt,
                    model.tokenizer,
                    self._slots,
                    markup=model.config.boundary,
                    tools=request.tools,
                )
                for prompt in prompts
            ]
        texts = list(dict.fromkeys(span.text for one in parsed for span in one.spans))
        needs = needs_of(request.policy)
        found = self._lookup.find(texts, encode=self._on_miss == "encode", needs=needs)
        looked_up = time.perf_counter()
        asked = self._asked(parsed, request.question, embed=QUESTION in needs)
        embedded = time.perf_counter() if QUESTION in needs else looked_up
        compressed = [
            assemble(
                one,
                expand(one, found, request.policy, request.p, words),
                model.tokenizer,
                chunk_ids=model.chunk_ids,
                boundary=model.boundary,
                question=words.text,
            )
            for one, words in zip(parsed, asked, strict=True)
        ]
        done = time.perf_counter()
        encoding = sum(passage.encode_s for passage in found.values())
        laps = Laps(
            looked_up - started - encoding, encoding + embedded - looked_up, done - embedded
        )
        return compressed, laps

    def tokenize(self, text: str, p: float) -> list[int]:
        """Token ids of a text, pad ids in place of its vectors and expanded chunks.

        With tokens around each run of vectors, the most that there can be.
        """
        model = self._model
        ids: list[int] = []
        for piece in split_spans(text, model.config.boundary):
            if isinstance(piece, Span):
                chunks = len(model.chunker.chunk(piece.text))
                expanded = limit_of(p, chunks)
                around = 2 * (expanded + 1) if model.boundary else 0
                ids += [model.pad_id] * (chunks + expanded * (model.config.k - 1) + around)
            else:
                ids += model.tokenizer(readable(piece), add_special_tokens=False).input_ids
        return ids

    def _asked(
        self, parsed: Sequence[ParsedPrompt], question: str | None, *, embed: bool
    ) -> list[Asked]:
        """The prompts' questions; those of prompts with spans are embedded, once each."""
        texts = [one.question if question is None else question for one in parsed]
        if not embed:
            return [Asked(text=text) for text in texts]
        wanted = [text for one, text in zip(parsed, texts, strict=True) if one.spans]
        vectors = self._lookup.embed(wanted) if wanted else {}
        return [Asked(text=text, embeddings=vectors.get(text)) for text in texts]
