"""RefragTransform: encodes passages when they are indexed."""

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, TransformComponent

from refrag_rag.adapters.engine import EngineOwner
from refrag_rag.adapters.passages import keep
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.llama_index.nodes import MetadataPlace, passage_text


class RefragTransform(EngineOwner, TransformComponent):
    """Encode the passages of nodes into the store; the nodes themselves stay as they are.

    Put it after the splitter and after everything that changes text or metadata. An ingestion
    cache that already knows these nodes skips it; a passage that is missing in the store is then
    encoded when it is first asked for, and counted as a miss.
    Give it an engine, or `model_name` and `store` of one that is loaded on first use, and the
    same ``metadata`` as `RefragPostprocessor`.

    Raises
    ------
    InputError
        If there is neither an engine nor a store: nobody could read what is encoded.
    """

    metadata: MetadataPlace = Field(
        default="compressed", description="Where the metadata meant for the LLM goes."
    )
    batch_size: int = Field(default=64, gt=0, description="Passages encoded at once.")
    namespace: str | None = Field(
        default=None, description="Fingerprint of the given engine's encoder, for cache keys."
    )

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        if engine is None and settings.get("store") is None:
            raise InputError(
                "RefragTransform got neither an engine nor a store, so its vectors would be lost; "
                "give the engine that the LLM uses, or store=FOLDER."
            )
        super().__init__(engine, **settings)
        if engine is not None:
            self.namespace = engine.namespace

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised pipelines and cache keys."""
        return "RefragTransform"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Encode what the store does not know yet; return the same nodes.

        A store that cannot be written stops no ingestion: that is logged as an error, and the
        passages are encoded when they are first asked for.
        """
        keep(self.engine, self._passages(nodes), batch_size=self.batch_size)
        return nodes

    def forget(self, nodes: Sequence[BaseNode], *, living: Sequence[BaseNode] = ()) -> int:
        """Remove the passages of deleted nodes from the store; return how many entries went.

        Call it where the nodes are deleted: LlamaIndex tells transformations nothing of that.

        Give the nodes as they were indexed; passages that they share with `living` ones stay.
        """
        return self.engine.forget(self._passages(nodes), living=self._passages(living))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _passages(self, nodes: Sequence[BaseNode]) -> list[str]:
        return list(filter(None, (passage_text(node, self.metadata) for node in nodes)))
