"""RefragLLM: a LangChain text model that reads marked documents as vectors."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict
from typing_extensions import override

from refrag_rag.engine import Refrag
from refrag_rag.generation.threads import read_in_thread
from refrag_rag.langchain.settings import GenerationSettings, Stop, report, usage


class RefragLLM(GenerationSettings, BaseLLM):
    """Text in, text out; spans in the prompt become vectors, and batches run as batches.

    A model with a chat template reads the prompt as one user message. Counts and timings stand in
    the ``generation_info`` of `generate` and of callbacks; `ChatRefrag` shows them with the answer.
    Calls and settings take the same arguments as there.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @property
    @override
    def _llm_type(self) -> str:
        return "refrag"

    @override
    def _generate(
        self, prompts: list[str], stop: Stop = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        arguments = self._arguments(stop, kwargs)
        answers = self.engine.generate_batch([self._prompt(one) for one in prompts], **arguments)
        return LLMResult(
            generations=[
                [Generation(text=answer.text, generation_info=report(answer, self.model_name))]
                for answer in answers
            ],
            llm_output={"model_name": self.model_name, "token_usage": dict(usage(*answers))},
        )

    @override
    def _stream(
        self,
        prompt: str,
        stop: Stop = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        arguments = self._arguments(stop, kwargs)
        for delta in self.engine.stream(self._prompt(prompt), **arguments):
            info = None if delta.answer is None else report(delta.answer, self.model_name)
            chunk = GenerationChunk(text=delta.text, generation_info=info)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    @override
    async def _astream(
        self,
        prompt: str,
        stop: Stop = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async for chunk in read_in_thread(lambda: self._stream(prompt, stop, **kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _prompt(self, text: str) -> str | list[dict[str, str]]:
        return [{"role": "user", "content": text}] if self.engine.is_chat_model else text
