"""LlamaIndex and LangChain chains as the docs set them up, with us and without.

From the question to the first token, metadata included; retrieval is not measured: the chains get
the same passages every time.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval import create_retrieval_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever as Retriever
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from benchmarks.harness import (
    System,
    median,
    new_store,
    parser,
    ratio,
    run,
    settings,
    summary,
    table,
)
from benchmarks.models import about, bare, load
from benchmarks.prompts import PASSAGE, Passages
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.generation.answer import Answer
from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform

QUESTION = "What is said of the first of them?"
STAGES = ("framework", "spans and store", "layout", "prefill", "decode")
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer the question from the context below.\n\n{context}"), ("human", "{input}")]
)
Chain = Callable[[], Any]


class KeptAnswer(Refrag):
    """An engine that keeps its last answer: chains give back text."""

    last: Answer

    def generate(self, prompt: Any, **arguments: Any) -> Answer:
        """Answer, and keep the answer."""
        self.last = super().generate(prompt, **arguments)
        return self.last


class FixedNodes(BaseRetriever):
    """Retrieves the same nodes for every question."""

    def __init__(self, nodes: Sequence[TextNode]) -> None:
        self._nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:  # noqa: ARG002
        return [NodeWithScore(node=node.model_copy(), score=0.5) for node in self._nodes]


class FixedDocuments(Retriever):
    """Retrieves the same documents for every question."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun  # noqa: ARG002
    ) -> list[Document]:  # fmt: skip
        return [document.model_copy() for document in self.documents]


def llama_index(engine: Refrag, texts: Sequence[str], tokens: int, *, ours: bool) -> Chain:
    """A query engine over nodes that were indexed."""
    nodes = [
        TextNode(text=text, metadata={"title": f"Document {i}", "page": i})
        for i, text in enumerate(texts)
    ]
    RefragTransform(engine)(nodes)
    query = RetrieverQueryEngine.from_args(
        FixedNodes(nodes),
        llm=RefragLLM(engine, max_new_tokens=tokens),
        node_postprocessors=[RefragPostprocessor(engine)] if ours else [],
    )
    return lambda: query.query(QUESTION)


def langchain(engine: Refrag, texts: Sequence[str], tokens: int, *, ours: bool) -> Chain:
    """A retrieval chain over documents that were indexed."""
    documents = [
        Document(text, metadata={"title": f"Document {i}", "page": i})
        for i, text in enumerate(texts)
    ]
    RefragIndexer(engine).transform_documents(documents)
    retriever: Retriever = FixedDocuments(documents=documents)
    if ours:
        retriever = ContextualCompressionRetriever(
            base_compressor=RefragCompressor(), base_retriever=retriever
        )
    answer = create_stuff_documents_chain(ChatRefrag(engine, max_tokens=tokens), PROMPT)
    chain = create_retrieval_chain(retriever, answer)
    return lambda: chain.invoke({"input": QUESTION})


CHAINS = {"LlamaIndex": llama_index, "LangChain": langchain}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both frameworks' chains; the report is written after each."""
    model = load(options.model, options.k, device=options.device, dtype=options.dtype)
    texts = Passages(model).passages(options.passages * PASSAGE)
    report: dict[str, Any] = {
        **settings(options), **machine(), **about(model), "stages": STAGES, "chains": {},
    }  # fmt: skip
    with new_store() as store:
        engine = KeptAnswer(model, store=store, policy="none")
        for name, build in CHAINS.items():
            ours, plain = (build(engine, texts, options.tokens, ours=one) for one in (True, False))
            staged(engine, ours)
            counts = engine.last.counts
            systems: dict[str, System] = {
                "ours": partial(staged, engine, ours),
                "bare": bare(model, 1, counts.positions),
                "plain": partial(staged, engine, plain),
            }
            rows = run(systems, options.rounds)
            report["chains"][name] = {
                "positions": counts.positions,
                "plain_positions": engine.last.counts.positions,
                "cache_hits": counts.cache_hits,
                "overhead": ratio(rows, ("ours", "ttft"), ("bare", "seconds")),
                **{system: summary(rows, system) for system in systems},
            }
            write_json(report, options.json)
    return report


def staged(engine: KeptAnswer, chain: Chain) -> dict[str, float]:
    """Run a chain once and divide its time; what is not the engine's is the framework's."""
    started = time.perf_counter()
    chain()
    total = time.perf_counter() - started
    spent = engine.last.timings
    framework = total - spent.total_s
    return {
        "ttft": framework + spent.ttft_s,
        "framework": framework,
        "spans and store": spent.lookup_s + spent.encode_s,
        "layout": spent.assemble_s,
        "prefill": spent.ttft_s - spent.before_prefill_s,
        "decode": spent.decode_s,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Times to the first token, the overhead, and every stage in milliseconds."""
    head = ("chain", "positions", "plain", "ours", "speed-up", "ours / bare", *report["stages"])
    rows = []
    for name, chain in report["chains"].items():
        ours, plain = (median(chain, side, "ttft") for side in ("ours", "plain"))
        rows.append((
            name,
            f"{chain['positions']:,} / {chain['plain_positions']:,}",
            f"{plain:.2f} s",
            f"{ours:.3f} s",
            f"{plain / ours:.1f}x",
            f"{median(chain, 'overhead'):.2f}",
            *(f"{1000 * median(chain, 'ours', stage):.1f} ms" for stage in report["stages"]),
        ))  # fmt: skip
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print the table."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--k", type=int, default=16, help="of a shape (default: 16)")
    made.add_argument("--passages", type=int, default=80, help="of 256 tokens (default: 80)")
    made.add_argument("--tokens", type=int, default=1, help="of each answer (default: 1)")
    print(markdown(measure(made.parse_args(arguments))))


if __name__ == "__main__":
    main()
