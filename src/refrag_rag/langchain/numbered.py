"""NumberedPassages: retrieved documents that an agent reads as vectors and can ask for as text."""

from collections.abc import Sequence

from langchain_core.tools import StructuredTool

from refrag_rag.adapters.numbered import DESCRIPTION, NAME, ExpandArguments, Numbered
from refrag_rag.engine import Refrag
from refrag_rag.langchain.compressor import RefragCompressor
from refrag_rag.langchain.documents import AnyDocument


class NumberedPassages(Numbered[AnyDocument]):
    """Documents under names (``seg_1`` ...), read as vectors, and a tool that gives their text.

    Make one for each conversation. `prompt` puts documents and question into a message; `show`
    gives the documents alone, as the result of a tool that searches. The agent gets `tool`.

    Parameters
    ----------
    engine
        With it, documents that the store does not have are encoded when they are shown, and the
        model's own markup is harmless in the text that the tool gives.
    title_key, score_key
        As in `RefragCompressor`.
    max_calls
        Most calls that the tool answers with text.

    Raises
    ------
    InputError
        If an argument cannot be used.
    """

    def __init__(
        self,
        engine: Refrag | None = None,
        *,
        title_key: str | None = None,
        score_key: str = "relevance_score",
        max_calls: int = 8,
    ) -> None:
        super().__init__(engine, max_calls=max_calls)
        self._compressor = RefragCompressor(engine, title_key=title_key, score_key=score_key)

    def tool(self) -> StructuredTool:
        """The tool ``expand(segment_id)``, for any agent or `bind_tools`."""
        return StructuredTool.from_function(
            self.expand,
            name=NAME,
            description=DESCRIPTION,
            args_schema=ExpandArguments,
            handle_validation_error=lambda _: self.expand(),
        )

    def _marked(self, passages: Sequence[AnyDocument]) -> list[str]:
        marked = self._compressor.compress_documents(passages, "")
        return [document.page_content for document in marked]
