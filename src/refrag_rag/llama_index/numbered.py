"""NumberedPassages: retrieved nodes that an agent reads as vectors and can ask for as text."""

from collections.abc import Sequence

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from llama_index.core.tools import FunctionTool

from refrag_rag.adapters.numbered import DESCRIPTION, NAME, ExpandArguments, Numbered
from refrag_rag.engine import Refrag
from refrag_rag.llama_index.nodes import MetadataPlace
from refrag_rag.llama_index.postprocessor import RefragPostprocessor


class NumberedPassages(Numbered[NodeWithScore | BaseNode]):
    """Nodes under names (``seg_1`` ...), read as vectors, and a tool that gives their text back.

    Make one for each conversation. `prompt` puts nodes and question into a message; `show` gives
    the nodes alone, as the result of a tool that searches. The agent gets `tool`.

    Parameters
    ----------
    engine
        With it, passages that the store does not have are encoded when they are shown, and the
        model's own markup is harmless in the text that the tool gives.
    metadata
        As in `RefragPostprocessor`.
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
        metadata: MetadataPlace = "compressed",
        max_calls: int = 8,
    ) -> None:
        super().__init__(engine, max_calls=max_calls)
        self._mark = RefragPostprocessor(engine, metadata)

    def tool(self) -> FunctionTool:
        """The tool ``expand(segment_id)``, for any agent."""
        return FunctionTool.from_defaults(
            self.expand, name=NAME, description=DESCRIPTION, fn_schema=ExpandArguments
        )

    def _marked(self, passages: Sequence[NodeWithScore | BaseNode]) -> list[str]:
        items = [p if isinstance(p, NodeWithScore) else NodeWithScore(node=p) for p in passages]
        marked = self._mark.postprocess_nodes(items)
        return [item.node.get_content(metadata_mode=MetadataMode.LLM) for item in marked]
