"""Refrag: a model, a store and a policy. It precomputes passages and answers prompts with spans."""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refrag_rag.engine.about import About
from refrag_rag.engine.elsewhere import backend_for, check_policy, without_layers
from refrag_rag.engine.indexing import Indexing
from refrag_rag.engine.lookup import PassageLookup, VectorType
from refrag_rag.engine.prepare import OnMiss, Preparation
from refrag_rag.engine.scoring import SCORERS
from refrag_rag.engine.settings import EngineSettings, LoadSettings
from refrag_rag.engine.shared import Shared
from refrag_rag.errors import InputError
from refrag_rag.generation.answer import Answer, Delta
from refrag_rag.generation.answering import answer_rows
from refrag_rag.generation.kv_cache import new_cache
from refrag_rag.generation.prompt_cache import PromptCache
from refrag_rag.generation.request import (
    Request,
    build_request,
    check_batch_size,
)
from refrag_rag.model import RefragModel
from refrag_rag.model.compiling import compile_model
from refrag_rag.model.graphs import graphs_of
from refrag_rag.policies import Policy, get_policy
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.store import ChunkStore, MemoryStore, open_store
from refrag_rag.text.chat_template import Prompt

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of typing since Python 3.11

logger = logging.getLogger(__name__)
NOTHING = "p = %s has no effect: the default policy of %s is 'none'. Name another to expand chunks."


class Refrag(Indexing, About, Shared):
    """The engine: everything between prompt text with spans and the answer.

    Calls from several threads may overlap: laying out prompts takes turns, decoding does not.

    Parameters
    ----------
    model
        Encoder, projector and decoder.
    store
        Where chunk embeddings are kept. Default: in memory.
    policy
        Chooses the chunks to expand: a policy, its name, or several joined (``exact+lexical``).
        Default: the model's (``hybrid``, or ``none`` where it never learnt to read mixtures).
    p
        Largest fraction of the chunks to expand. Default: 0.1.
    on_miss
        A passage or score that the store has not: ``encode`` makes it on the spot, and keeps it
        unless the store is read-only; ``text`` reads the passage as text, without the score.
    vectors
        How newly encoded chunk embeddings are kept; float32 takes twice the space.
    scores
        What `precompute` computes beside what `policy` needs: names of scores (``perplexity``).
    prompt_cache
        How many KV caches of prompts with their answers to keep, so that the next turn of a chat
        prefills only what is new; each takes the decoder's memory for that many positions.
    backend
        vLLM, to decode instead of the model: base URLs of servers, or an engine object; see
        `refrag_rag.serving.backend_of`.

    Raises
    ------
    InputError
        If an argument cannot be used.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that users choose
        self,
        model: RefragModel,
        *,
        store: ChunkStore | None = None,
        policy: str | Policy | None = None,
        p: float | None = None,
        on_miss: OnMiss = "encode",
        vectors: VectorType = "float16",
        scores: Collection[str] = (),
        prompt_cache: int = 0,
        backend: Any = None,
    ) -> None:
        if isinstance(scores, str) or set(scores) - set(SCORERS):
            raise InputError(f"scores = {scores!r}; expected a list of {', '.join(SCORERS)}.")
        self.model = model
        self.store = MemoryStore() if store is None else store
        self.backend = backend_for(model, backend, scores=scores, prompt_cache=prompt_cache)
        self.policy = self.get_policy(model.config.policy if policy is None else policy)
        self.p = Request(policy=self.policy, p=0.1 if p is None else p).p
        if policy is None and p and self.policy.name == "none":
            logger.warning(NOTHING, p, self.model_name)
        self.on_miss = on_miss
        self.scores = frozenset(scores)
        self.prompt_cache = PromptCache(model, prompt_cache)
        self._lookup = PassageLookup(model, self.store, dtype=vectors)
        self._preparation = Preparation(model, self._lookup, on_miss)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "smol",
        *,
        store: str | Path | ChunkStore | None = None,
        compile: bool | Literal["graphs"] = False,
        kv_cache: str | None = None,
        **settings: "Unpack[LoadSettings]",
    ) -> "Refrag":
        """Load a model by name, folder or hub id, and open the store.

        Parameters
        ----------
        store
            A path for the store on disk, a store, or nothing for one in memory.
        compile
            Compile the decoder with ``torch.compile`` when it is first used, which takes a while
            and on CPUs needs a C++ compiler and Python's headers; or ``graphs``: see `Graphs`.
        kv_cache
            Keep the decoder's keys and values in fewer bits: ``fp8`` or ``int4``.
        **settings
            Those of the engine (``policy``, ``p``, ``on_miss``, ``vectors``, ``scores``,
            ``prompt_cache``, ``backend``), and those of `refrag_rag.checkpoints.load`: ``dtype``,
            ``device``, ``device_map``, ``k``, ``base``, ``revision`` ...
        """
        if store == "" or not (isinstance(store, str | Path | None) or hasattr(store, "put")):
            raise InputError(f"store = {store!r}; expected a folder, a store, or None for memory.")
        options: dict[str, Any] = dict(settings)
        names = EngineSettings.__annotations__.keys() & options.keys()
        own = {name: options.pop(name) for name in names}
        if own.get("backend") is not None:
            options = without_layers(options, compile=compile, kv_cache=kv_cache)
        if kv_cache is not None and (compile == "graphs" or own.get("prompt_cache")):
            raise InputError(
                f"kv_cache = {kv_cache!r} beside compile = 'graphs' or a prompt_cache, which keep "
                "whole numbers; expected one or the other. Leave one out."
            )
        model = RefragModel.from_pretrained(name_or_path, **options)
        if kv_cache is not None:
            new_cache(kv_cache, model.decoder)  # it says at once whether it can
            model.kv_cache = kv_cache
        if compile == "graphs":
            model.graphs = graphs_of(model.decoder)
        elif compile:
            compile_model(model.decoder)
        opened = open_store(store) if isinstance(store, str | Path) else store
        return cls(model, store=opened, **own)

    def compress(self, prompt: Prompt, **arguments: Any) -> CompressedPrompt:
        """Lay out a prompt as `generate` does, without answering it; print it to see it."""
        return self._preparation.prepare([prompt], self._request(**arguments))[0][0]

    def generate(self, prompt: Prompt, **arguments: Any) -> Answer:
        """Answer one prompt.

        Parameters
        ----------
        prompt
            Text, used as it stands, or messages with ``role`` and ``content`` (and ``tool_calls``,
            ``tool_call_id``, ``name``), to which the model's chat template is applied. Spans may
            stand anywhere in a content.
        **arguments
            ``question`` (default: the last user message outside spans), ``policy``, ``p``,
            ``tools`` (functions in OpenAI's shape, for the chat template; `parse_tool_calls`
            finds the calls in the answer's text), and those of `Sampling`:
            ``max_new_tokens``, ``stop``, ``temperature``, ``top_p``, ``top_k``,
            ``repetition_penalty``, ``seed``.

        Raises
        ------
        InputError
            If the prompt is empty, an argument cannot be used, or tools are given and the chat
            template has no place for them.
        PromptTooLongError
            If the prompt takes all positions of the decoder.
        """
        return self.generate_batch([prompt], **arguments)[0]

    def generate_batch(
        self, prompts: Sequence[Prompt], *, batch_size: int = 32, **arguments: Any
    ) -> list[Answer]:
        """Answer several prompts, `batch_size` at once; each as `generate` answers it alone."""
        check_batch_size(batch_size)
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            raise InputError(f"prompts = {prompts!r:.80}; expected a list of prompts.")
        request = self._request(**arguments)
        return [
            delta.answer
            for start in range(0, len(prompts), batch_size)
            for delta in self._run(prompts[start : start + batch_size], request)
            if delta.answer is not None
        ]

    def stream(self, prompt: Prompt, **arguments: Any) -> Iterator[Delta]:
        """Answer one prompt piece by piece; arguments and errors as for `generate`.

        Yields
        ------
        Delta
            New text; the last one carries the answer. The pieces joined are the answer's text.
        """
        yield from self._run([prompt], self._request(**arguments))

    def count_tokens(self, text: str) -> int:
        """Positions that a text takes; a span counts as its vectors and expanded chunks."""
        return len(self.tokenize(text))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, pad ids in place of vectors (for a framework's token counter)."""
        if not isinstance(text, str):
            raise InputError(f"text = {text!r:.80}; expected text.")
        return self._preparation.tokenize(text, 0 if self.policy.name == "none" else self.p)

    def get_policy(self, policy: str | Policy | None = None) -> Policy:
        """A policy by its name, among the model's own too; None: the engine's.

        Raises
        ------
        InputError
            If there is none of that name, or it needs the decoder and that is elsewhere.
        """
        found = self.policy if policy is None else get_policy(policy, self.model.policies)
        if self.backend is not None:
            check_policy(found)
        return found

    def _request(
        self, *, policy: str | Policy | None = None, p: float | None = None, **arguments: Any
    ) -> Request:
        """What a call asks for; the engine's own policy and p where it says nothing."""
        return build_request(self.get_policy(policy), self.p if p is None else p, arguments)

    def _run(self, prompts: Sequence[Prompt], request: Request) -> Iterator[Delta]:
        compressed, timings = self._preparation.prepare(prompts, request)
        return answer_rows(
            self.model, compressed, request, self.prompt_cache, timings, self.backend
        )
