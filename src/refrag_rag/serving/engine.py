"""vLLM in this process: its ``LLM`` and its ``AsyncLLM``."""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any
from uuid import uuid4

from refrag_rag.errors import InputError, ServingError
from refrag_rag.generation.decode import Token
from refrag_rag.serving.remote import Job, Remote
from refrag_rag.serving.rows import Loop, Row


class _InProcess(Remote):
    def __init__(self, engine: Any) -> None:
        self._engine, self._config = engine, engine.model_config
        if not self._config.enable_prompt_embeds:
            raise InputError(
                "The engine of vLLM takes no input embeddings; expected one that does. Build it "
                "with enable_prompt_embeds=True."
            )

    @property
    def window(self) -> int:
        return int(self._config.max_model_len)

    def _request(self, job: Job) -> tuple[dict[str, Any], Any]:
        """What vLLM takes; it would die of a tensor of another width."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        embeds, parameters = job
        if embeds.shape[1] != (width := self._config.get_hidden_size()):
            raise ServingError(
                f"The prompt's input embeddings are {embeds.shape[1]} wide, vLLM's model reads "
                f"{width}; expected the same model's decoder. Build the engine on the folder that "
                "`refrag path` prints."
            )
        kind = RequestOutputKind.DELTA
        sampling = SamplingParams(**parameters, output_kind=kind, detokenize=False)
        return {"prompt_embeds": embeds.to(self._config.dtype)}, sampling


class Engine(_InProcess):
    """An ``LLM`` of vLLM: calls take turns, each of them is a batch.

    Raises
    ------
    InputError
        If it takes no input embeddings.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__(llm.llm_engine)
        self._lock = threading.Lock()

    def _decode(
        self, jobs: Sequence[Job], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        requests = [self._request(job) for job in jobs]
        rows = {uuid4().hex: row for row in range(len(jobs))}
        with self._lock:
            try:
                for name, request in zip(rows, requests, strict=True):
                    self._engine.add_request(name, *request)
                while rows:
                    for output in self._engine.step():
                        yield from self._taken(output, rows, stopped)
            finally:
                self._engine.abort_request(list(rows))

    def _taken(
        self, output: Any, rows: dict[str, int], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        """The tokens of one output; a row that is at its end is taken out."""
        if (row := rows.get(output.request_id)) is None:
            return
        for token in output.outputs[0].token_ids:
            yield [(row, token)]
            if stopped(row):
                self._engine.abort_request([output.request_id])
                break
        if output.finished or stopped(row):
            del rows[output.request_id]


class AsyncEngine(_InProcess):
    """An ``AsyncLLM`` of vLLM: all calls are decoded together.

    Raises
    ------
    InputError
        If it takes no input embeddings.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        # It belongs to the loop that it was built in, or else to the first that asks it.
        handler: asyncio.Task[None] | None = engine.output_handler
        self._loop = Loop(None if handler is None else handler.get_loop())

    def _decode(
        self, jobs: Sequence[Job], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        return self._loop.read([self._row(*self._request(job)) for job in jobs], stopped)

    async def _row(self, prompt: dict[str, Any], sampling: Any) -> Row:
        async for output in self._engine.generate(prompt, sampling, uuid4().hex):
            yield output.outputs[0].token_ids
