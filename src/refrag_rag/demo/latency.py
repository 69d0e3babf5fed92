"""``refrag bench frameworks``: LlamaIndex and LangChain chains end to end, and where time goes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from refrag_rag.answer import Answer
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.latency_clock import Runs, load_average
from refrag_rag.evaluation.latency_machine import machine
from refrag_rag.evaluation.latency_prompts import Passages
from refrag_rag.evaluation.latency_shapes import random_model
from refrag_rag.evaluation.latency_sides import bare
from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform
from refrag_rag.model import RefragModel
from refrag_rag.store import LMDBStore, PassageEntry

QUESTION = "What is said of the first of them?"
STAGES = (
    "framework", "spans and tokenizer", "store", "layout", "inputs", "projector", "prefill",
    "decode",
)  # fmt: skip
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer the question from the context below.\n\n{context}"), ("human", "{input}")]
)
Chain = Callable[[], Any]


class TimedEngine(Refrag):
    """An engine that keeps its last answer."""

    last: Answer

    def generate(self, prompt: Any, **arguments: Any) -> Answer:
        """Answer, and keep the answer."""
        self.last = super().generate(prompt, **arguments)
        return self.last


class TimedStore(LMDBStore):
    """A store that adds up the time of its reads."""

    seconds = 0.0

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Read, and count."""
        started = time.perf_counter()
        found = super().get(namespace, keys)
        self.seconds += time.perf_counter() - started
        return found


class Fixed(BaseRetriever):
    """Retrieves the same nodes for every question: retrieval is not what is measured."""

    def __init__(self, nodes: Sequence[TextNode]) -> None:
        self._nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:  # noqa: ARG002
        return [NodeWithScore(node=node.model_copy(), score=0.5) for node in self._nodes]


def measure_frameworks(
    name: str,
    target: Path,
    *,
    k: int = 16,
    passages: int = 80,
    tokens: int = 1,
    rounds: int = 9,
    plain_rounds: int = 1,
    device: str = "cpu",
) -> Iterator[str]:
    """Time both chains with and without us, write JSON to `target`, and yield lines for people."""
    model = random_model(name, k, device=device)
    texts = Passages(model).passages(passages * 256)
    report: dict[str, Any] = {
        "model": name, "k": k, "passages": passages, "tokens": tokens, "machine": machine(model),
        "chains": {},
    }  # fmt: skip
    on_cpu = torch.device(device).type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 0
    with TemporaryDirectory() as folder, closing(TimedStore(Path(folder) / "store")) as store:
        engine = TimedEngine(model, store=store, policy="none")
        sides = {
            "LlamaIndex": (_llama_index(engine, texts, tokens, ours=True),
                           _llama_index(engine, texts, tokens, ours=False)),
            "LangChain": (_langchain(engine, texts, tokens, ours=True),
                          _langchain(engine, texts, tokens, ours=False)),
        }  # fmt: skip
        for framework, (ours, plain) in sides.items():
            _staged(engine, store, ours)  # warm-up
            counts = engine.last.counts
            forward = bare(model, 1, counts.positions)
            runs = {side: Runs(threads) for side in ("ours", "plain", "bare")}
            for done in range(max(rounds, plain_rounds)):
                if done < rounds:
                    runs["ours"].measure(partial(_staged, engine, store, ours))
                    runs["bare"].measure(forward)
                if done < plain_rounds:
                    runs["plain"].measure(partial(_staged, engine, store, plain))
            found = {side: one.report() for side, one in runs.items()}
            report["chains"][framework] = {
                "positions": counts.positions,
                "plain_positions": engine.last.counts.plain_positions,
                "cache_hits": counts.cache_hits,
                "load_average": load_average(),
                "overhead": runs["ours"].beside("ttft", runs["bare"], "seconds"),
                **found,
            }
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    yield frameworks_table(report)
    stacked_bar(report, target.with_suffix(".png"))


def frameworks_table(report: dict[str, Any]) -> str:
    """Times to the first token, the overhead, and every stage in milliseconds."""
    lines = [
        "| chain | positions | plain | ours | speed-up | ours / bare | "
        + " | ".join(STAGES)
        + " |",
        "|---" * (6 + len(STAGES)) + "|",
    ]
    for name, chain in report["chains"].items():
        ours, plain = (chain[side]["ttft"]["median"] for side in ("ours", "plain"))
        stages = [f"{1000 * chain['ours'][stage]['median']:.1f} ms" for stage in STAGES]
        overhead = chain["overhead"]["median"]
        lines.append(
            f"| {name} | {chain['positions']:,} / {chain['plain_positions']:,} | {plain:.2f} s "
            f"| {ours:.3f} s | {plain / ours:.1f}x | {overhead:.2f} | {' | '.join(stages)} |"
        )
    return "\n".join(lines) + "\n"


def stacked_bar(report: dict[str, Any], target: Path) -> None:
    """Where the time of each chain goes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    names = list(report["chains"])
    left = [0.0] * len(names)
    for stage in STAGES:
        widths = [1000 * report["chains"][name]["ours"][stage]["median"] for name in names]
        axis.barh(names, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_xlabel("milliseconds, median")
    axis.legend(fontsize=7, ncols=len(STAGES) // 2)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _staged(engine: TimedEngine, store: TimedStore, chain: Chain) -> dict[str, float]:
    """Run a chain once and divide its time."""
    store.seconds = 0.0
    with _modules(engine.model) as spent:
        started = time.perf_counter()
        chain()
        total = time.perf_counter() - started
    timings = engine.last.timings
    prefill, projector = spent["decoder"][0], sum(spent["projector"])
    known = timings.lookup_s + timings.encode_s + timings.assemble_s + projector + prefill
    framework = total - timings.total_s
    return {
        "ttft": framework + timings.ttft_s,
        "framework": framework,
        "spans and tokenizer": timings.lookup_s - store.seconds,
        "store": store.seconds,
        "layout": timings.assemble_s,
        "inputs": timings.ttft_s - known,
        "projector": projector,
        "prefill": prefill,
        "decode": timings.decode_s,
    }


@contextmanager
def _modules(model: RefragModel) -> Iterator[dict[str, list[float]]]:
    """Time every call of the projector and the decoder."""
    spent: dict[str, list[float]] = {"projector": [], "decoder": []}
    hooks = []
    for name, module in (("projector", model.projector), ("decoder", model.decoder)):
        clock = [0.0]

        def before(*_: Any, clock: list[float] = clock) -> None:
            _wait()
            clock[0] = time.perf_counter()

        def after(*_: Any, clock: list[float] = clock, found: list[float] = spent[name]) -> None:
            _wait()
            found.append(time.perf_counter() - clock[0])

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _llama_index(engine: Refrag, texts: Sequence[str], tokens: int, *, ours: bool) -> Chain:
    nodes = [
        TextNode(text=text, metadata={"title": f"Document {i}", "page": i})
        for i, text in enumerate(texts)
    ]
    RefragTransform(engine)(nodes)
    query = RetrieverQueryEngine.from_args(
        Fixed(nodes),
        llm=RefragLLM(engine, max_new_tokens=tokens),
        node_postprocessors=[RefragPostprocessor()] if ours else [],
    )
    return lambda: query.query(QUESTION)


def _langchain(engine: Refrag, texts: Sequence[str], tokens: int, *, ours: bool) -> Chain:
    documents = [
        Document(text, metadata={"title": f"Document {i}", "page": i})
        for i, text in enumerate(texts)
    ]
    RefragIndexer(engine).transform_documents(documents)
    compressor = RefragCompressor()

    def retrieve(question: str) -> list[Document]:
        return list(compressor.compress_documents(documents, question)) if ours else documents

    answer = create_stuff_documents_chain(ChatRefrag(engine, max_tokens=tokens), PROMPT)
    chain = create_retrieval_chain(RunnableLambda(lambda given: retrieve(given["input"])), answer)
    return lambda: chain.invoke({"input": QUESTION})
