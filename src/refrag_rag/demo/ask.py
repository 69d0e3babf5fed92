"""Ask an index: an answer with its sources, and with what its LLM reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore

from refrag_rag.demo.files import PATH, TITLE
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.generation.answer import Answer
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, collect_answers

NO_LIMIT = 2**40


@dataclass(frozen=True)
class Source:
    """A document that retrieved passages are from; prints as one line."""

    file: str  # path below the folder that was indexed
    title: str  # first line, or the path where that is too long for a title
    score: float  # the retriever's similarity of the best passage
    passages: int

    def __str__(self) -> str:
        """Score, path, title, and how many passages if there are several."""
        title = "" if self.title == self.file else f"  {self.title}"
        count = f"  ({self.passages} passages)" if self.passages > 1 else ""
        return f"{self.score:.2f}  {self.file}{title}{count}"


@dataclass(frozen=True)
class Reading:
    """An answer: its text as LlamaIndex gives it, what the engine tells of it, its sources."""

    text: str
    answer: Answer
    sources: tuple[Source, ...]


class Asker:
    """A LlamaIndex query engine over an index, with what its LLM reported.

    Parameters
    ----------
    top_k
        Passages retrieved for a question.
    max_new_tokens
        Longest answer, in tokens.
    **settings
        Of `RefragLLM`: ``policy``, ``p`` ...
    """

    def __init__(
        self,
        index: VectorStoreIndex,
        engine: Refrag,
        *,
        top_k: int = 8,
        max_new_tokens: int = 24,
        **settings: Any,
    ) -> None:
        llm = RefragLLM(engine, max_new_tokens=max_new_tokens, **settings)
        # All passages go into one prompt: LlamaIndex would count their text, spread it over several
        # calls and refine. The engine counts positions, and says so where they are too many.
        helper = PromptHelper(context_window=NO_LIMIT, num_output=0, tokenizer=llm.tokenizer())
        self._query_engine = RetrieverQueryEngine(
            retriever=index.as_retriever(similarity_top_k=top_k),
            response_synthesizer=get_response_synthesizer(llm=llm, prompt_helper=helper),
            node_postprocessors=[RefragPostprocessor(engine)],
        )

    def ask(self, question: str) -> Reading:
        """Answer one question.

        Raises
        ------
        InputError
            See `check_question`.
        PromptTooLongError
            If the passages take more positions than the decoder has.
        """
        check_question(question)
        with collect_answers() as events:
            response = self._query_engine.query(question)
        return Reading(str(response), events[-1].answer, sources(response.source_nodes))


def check_question(question: str) -> None:
    """See that a question can be asked.

    Raises
    ------
    InputError
        If it is empty, or holds bytes that are no text.
    """
    if not question.strip():
        raise InputError("The question is empty; expected some words.")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The question {question!r} holds bytes that are no text here; expected the "
            "terminal's encoding. See `locale`."
        ) from error


def sources(nodes: Sequence[NodeWithScore]) -> tuple[Source, ...]:
    """The documents of retrieved nodes, best first, each once."""
    found: dict[str, list[NodeWithScore]] = {}
    for node in sorted(nodes, key=lambda node: node.score or 0.0, reverse=True):
        found.setdefault(str(node.metadata.get(PATH, node.node_id)), []).append(node)
    return tuple(
        Source(file, str(own[0].metadata.get(TITLE) or file), own[0].score or 0.0, len(own))
        for file, own in found.items()
    )
