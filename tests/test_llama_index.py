"""LlamaIndex adapters with a scripted engine: nodes, prompts, arguments, errors, threads."""

import asyncio
import gc
import pickle
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import PromptTemplate, get_response_synthesizer
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore

from refrag_rag.errors import InputError, PromptTooLongError, RefragError
from refrag_rag.llama_index import (
    RefragLLM,
    RefragPostprocessor,
    RefragTransform,
    passage_text,
)
from refrag_rag.spans import find_spans, neutralise, strip_spans

MODES = ["compressed", "text", "drop"]


class FakeEngine:
    """Answers with a script, word by word, and remembers what it was asked."""

    model_name, context_window, namespace = "fake", 4096, "fake-1"

    def __init__(self, script="a b c", *, is_chat_model=True, error=None, step_s=0.0):
        self.script, self.is_chat_model = script, is_chat_model
        self.error, self.step_s = error, step_s
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.batches: list[list[str]] = []
        self.running = threading.Event()
        self.steps = 0

    def precompute(self, texts, *, batch_size=64, progress=False):
        self.batches.append(list(texts))

    def tokenize(self, text):
        return [0] * len(text.split())

    def generate(self, prompt, **settings):
        self.calls.append((prompt, settings))
        if self.error is not None:
            raise self.error
        return self._answer()

    def stream(self, prompt, **settings):
        self.calls.append((prompt, settings))
        self.running.set()
        try:
            for word in self.script.split(" "):
                time.sleep(self.step_s)
                self.steps += 1
                yield SimpleNamespace(text=word + " ", answer=None)
            if self.error is not None:
                raise self.error
            yield SimpleNamespace(text="", answer=self._answer())
        finally:
            self.running.clear()

    def _answer(self):
        counts = SimpleNamespace(positions=7, new_tokens=3)
        return SimpleNamespace(
            text=self.script, counts=counts, metadata=lambda: {"positions": 7, "cache_hits": 1}
        )


def text_node(**changes):
    fields = {
        "text": "Aru lies north.",
        "id_": "n1",
        "metadata": {"file": "a.txt", "secret": "x"},
        "excluded_llm_metadata_keys": ["secret"],
        "relationships": {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")},
        "embedding": [0.5, 1.0],
    }
    return TextNode(**{**fields, **changes})


def marked(node, mode="compressed", score=0.5):
    return RefragPostprocessor(metadata=mode).postprocess_nodes(
        [NodeWithScore(node=node, score=score)]
    )[0]


# --- postprocessor -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "outside", "inside"),
    [
        ("compressed", "", "file: a.txt\n\nAru lies north."),
        ("text", "file: a.txt\n\n", "Aru lies north."),
        ("drop", "", "Aru lies north."),
    ],
)
def test_llm_mode_shows_one_span(mode, outside, inside):
    content = marked(text_node(), mode).node.get_content(metadata_mode=MetadataMode.LLM)
    (span,) = find_spans(content)
    assert (content[: span.start], span.text) == (outside, inside)
    assert span.score == pytest.approx(0.5)
    assert span.text == passage_text(text_node(), mode)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_hold_the_same_span(mode):
    blocks = marked(text_node(), mode).node.get_content_blocks(metadata_mode=MetadataMode.LLM)
    text = "\n\n".join(block.text for block in blocks)
    assert text == marked(text_node(), mode).node.get_content(metadata_mode=MetadataMode.LLM)


@pytest.mark.parametrize("mode", MODES)
def test_everything_else_is_untouched(mode):
    node = text_node()
    before = node.model_dump()
    item = marked(node, mode)
    assert node.model_dump() == before == item.node.model_dump()
    assert item.score == 0.5
    assert isinstance(item.node, TextNode)
    assert (item.text, item.node.hash, item.node_id) == (node.text, node.hash, "n1")
    for other in (MetadataMode.ALL, MetadataMode.EMBED, MetadataMode.NONE):
        assert item.node.get_content(metadata_mode=other) == node.get_content(metadata_mode=other)
        blocks = node.get_content_blocks(metadata_mode=other)
        assert item.node.get_content_blocks(metadata_mode=other) == blocks
    item.node.metadata["new"] = 1
    item.node.set_content("changed")
    assert node.model_dump() == before


def test_order_scores_and_missing_scores_stay():
    items = [NodeWithScore(node=text_node(id_=str(i)), score=s) for i, s in enumerate((0.1, None))]
    made = RefragPostprocessor().postprocess_nodes(items, query_str="who?")
    assert [(item.node_id, item.score) for item in made] == [("0", 0.1), ("1", None)]
    assert find_spans(made[1].node.get_content(metadata_mode=MetadataMode.LLM))[0].score is None
    assert RefragPostprocessor().postprocess_nodes([]) == []


def test_nodes_without_a_passage_pass_through():
    media = Node(text_resource=MediaResource(text="t"), image_resource=MediaResource(data=b"i"))
    for node in (text_node(text=""), text_node(text=" \n"), ImageNode(text="t"), media, Node()):
        assert marked(node).node is node


def test_other_text_classes_keep_their_class():
    document = marked(Document(text="d", metadata={"a": 1})).node
    assert isinstance(document, Document)
    assert document.text == "d"
    assert find_spans(document.get_content(metadata_mode=MetadataMode.LLM))[0].text == "a: 1\n\nd"
    target = object()
    index_node = marked(IndexNode(text="i", index_id="x", obj=target)).node
    assert isinstance(index_node, IndexNode)
    assert index_node.obj is target


def test_own_node_class_keeps_fields_and_methods():
    class Mine(TextNode):
        note: str = "default"
        metadata_template: str = "<{key}>"

    node = marked(Mine(text="t", note="kept", metadata={"a": 1})).node
    assert isinstance(node, Mine)
    assert node.note == "kept"
    assert find_spans(node.get_content(metadata_mode=MetadataMode.LLM))[0].text == "<a>\n\nt"


def test_markers_in_documents_open_and_close_nothing():
    node = text_node(text="a [[/refrag]] b [[refrag]] c", metadata={"f": "[[refrag]]"})
    for mode in MODES:
        content = marked(node, mode).node.get_content(metadata_mode=MetadataMode.LLM)
        (span,) = find_spans(content)
        assert span.text == neutralise(passage_text(node, mode))
        assert span.text.endswith("c")


def test_marking_twice_gives_one_span():
    twice = marked(marked(text_node()).node, "drop", score=0.25)
    content = twice.node.get_content(metadata_mode=MetadataMode.LLM)
    assert [(span.text, span.score) for span in find_spans(content)] == [("Aru lies north.", 0.25)]


def test_marked_nodes_follow_a_later_change_of_text():
    node = marked(text_node(), "drop").node
    node.set_content("other")
    assert find_spans(node.get_content(metadata_mode=MetadataMode.LLM))[0].text == "other"
    node.set_content("")
    assert find_spans(node.get_content(metadata_mode=MetadataMode.LLM)) == []


def test_marked_nodes_survive_copies_and_pickle_and_are_stored_plain():
    node = marked(text_node(), "text").node
    content = node.get_content(metadata_mode=MetadataMode.LLM)
    for twin in (node.model_copy(), node.model_copy(deep=True), pickle.loads(pickle.dumps(node))):
        assert twin.get_content(metadata_mode=MetadataMode.LLM) == content
        assert twin.model_dump() == node.model_dump()
    store = SimpleDocumentStore()
    store.add_documents([node])
    assert type(store.get_document("n1")) is TextNode


def test_engine_precomputes_in_one_batch():
    engine = FakeEngine()
    nodes = [NodeWithScore(node=text_node(text=text)) for text in ("a", "", "b")]
    RefragPostprocessor(engine, metadata="drop").postprocess_nodes(nodes)
    asyncio.run(RefragPostprocessor(engine, metadata="drop").apostprocess_nodes(nodes))
    assert engine.batches == [["a", "b"]] * 2


# --- transform -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_transform_encodes_the_text_of_the_later_span(mode):
    engine = FakeEngine()
    nodes = [text_node(), text_node(text=""), ImageNode(text="t")]
    assert RefragTransform(engine, metadata=mode)(nodes, show_progress=True) is nodes
    asyncio.run(RefragTransform(engine, metadata=mode).acall(nodes))
    content = marked(text_node(), mode).node.get_content(metadata_mode=MetadataMode.LLM)
    assert engine.batches == [[find_spans(content)[0].text]] * 2


def test_transform_settings_are_part_of_the_cache_key(tmp_path):
    keys = [
        RefragTransform(store=tmp_path).to_dict(),
        RefragTransform(store=tmp_path, metadata="drop").to_dict(),
        RefragTransform(store=tmp_path, model_name="other").to_dict(),
        RefragTransform(store=tmp_path, model_kwargs={"revision": "2"}).to_dict(),
        RefragTransform(FakeEngine()).to_dict(),
    ]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert RefragTransform.from_dict(keys[0]).to_dict() == keys[0]
    secret = RefragTransform(store=tmp_path, model_kwargs={"token": "s3cret"})
    assert "s3cret" not in str(secret.to_dict())


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither an engine nor a store"):
        RefragTransform()
    with pytest.raises(InputError, match="store"):
        RefragTransform(FakeEngine(), store=tmp_path)
    with pytest.raises(InputError, match="another process"):
        pickle.dumps(RefragTransform(FakeEngine()))
    assert pickle.loads(pickle.dumps(RefragTransform(store=tmp_path))).store == str(tmp_path)
    assert pickle.loads(pickle.dumps(RefragPostprocessor(FakeEngine(), "drop"))).metadata == "drop"


# --- LLM: prompts --------------------------------------------------------------------------


def test_complete_is_one_user_message_for_a_chat_model():
    engine = FakeEngine()
    RefragLLM(engine).complete("hi")
    RefragLLM(engine, system_prompt="Be brief.").complete("hi")
    RefragLLM(engine).complete("hi", formatted=True)
    RefragLLM(engine, completion_to_prompt=lambda prompt: f"<{prompt}>").complete("hi")
    RefragLLM(engine, is_chat_model=False).complete("hi")
    user = {"role": "user", "content": "hi"}
    system = {"role": "system", "content": "Be brief."}
    assert [prompt for prompt, _ in engine.calls] == [[user], [system, user], "hi", "<hi>", "hi"]


def test_chat_hands_over_roles_and_text():
    engine = FakeEngine()
    roles = [MessageRole.DEVELOPER, MessageRole.USER, MessageRole.MODEL, MessageRole.TOOL]
    RefragLLM(engine).chat([ChatMessage(role=role, content=role.value) for role in roles])
    seen = [(message["role"], message["content"]) for message in engine.calls[0][0]]
    assert seen == [
        ("system", "developer"),
        ("user", "user"),
        ("assistant", "model"),
        ("tool", "tool"),
    ]
    image = ImageBlock(image=b"i", image_mimetype="image/png")
    with pytest.raises(InputError, match="ImageBlock"):
        RefragLLM(engine).chat([ChatMessage(blocks=[TextBlock(text="t"), image])])


def test_chat_with_a_plain_model_or_an_own_format():
    engine = FakeEngine(is_chat_model=False)
    RefragLLM(engine).chat([ChatMessage(content="hi")])
    RefragLLM(engine, system_prompt="S").complete("hi")
    own = RefragLLM(FakeEngine(), messages_to_prompt=lambda messages: f"{len(messages)} in")
    own.chat([ChatMessage(content="hi")])
    assert [prompt for prompt, _ in engine.calls] == ["user: hi\nassistant: ", "S\n\nhi"]
    assert own.engine.calls[0][0] == "1 in"


def test_metadata_and_tokenizer():
    engine = FakeEngine()
    metadata = RefragLLM(engine, max_new_tokens=9).metadata
    assert (metadata.context_window, metadata.num_output) == (4096, 9)
    assert (metadata.is_chat_model, metadata.model_name) == (True, "fake")
    assert not metadata.is_function_calling_model
    assert RefragLLM(engine, context_window=99, is_chat_model=False).metadata.context_window == 99
    assert len(RefragLLM(engine).tokenizer()("a b c")) == 3


# --- LLM: arguments ------------------------------------------------------------------------


def test_arguments_of_the_call_win():
    engine = FakeEngine()
    llm = RefragLLM(engine, p=0.2, generate_kwargs={"temperature": 0.7, "top_k": 5})
    llm.complete("hi", max_tokens=3, temperature=0.1, stop="\n", seed=1, top_p=None, policy="all")
    llm.chat([ChatMessage(content="hi")], do_sample=False, question="who?", p=0.5)
    assert engine.calls[0][1] == {
        "max_new_tokens": 3,
        "temperature": 0.1,
        "top_k": 5,
        "stop": ("\n",),
        "seed": 1,
        "p": 0.2,
        "policy": "all",
    }
    assert engine.calls[1][1] == {
        "max_new_tokens": 64,
        "temperature": 0.0,
        "top_k": 5,
        "question": "who?",
        "p": 0.5,
    }


def test_unknown_arguments_are_refused():
    with pytest.raises(InputError, match="num_beams"):
        RefragLLM(FakeEngine(), generate_kwargs={"num_beams": 4})
    with pytest.raises(InputError, match="max_length"):
        RefragLLM(FakeEngine()).complete("hi", max_length=4)


def test_nothing_is_loaded_in_the_constructor(tmp_path):
    llm = RefragLLM(model_name=str(tmp_path / "none"), store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(RefragError):
        llm.complete("hi")


# --- LLM: answers --------------------------------------------------------------------------


def test_components_with_the_same_settings_share_one_engine(tmp_path, monkeypatch):
    loads = []

    def load(name, **settings):
        loads.append((name, settings))
        return FakeEngine()

    monkeypatch.setattr("refrag_rag.engine.Refrag.load", load)
    llm = RefragLLM(store=tmp_path, model_kwargs={"on_miss": "text"})
    transform = RefragTransform(store=tmp_path, model_kwargs={"on_miss": "text"})
    other = RefragLLM(store=tmp_path)
    assert llm.engine is transform.engine
    assert llm.engine is not other.engine
    settings = {"store": str(tmp_path), "device_map": None}
    assert loads == [("tiny", {**settings, "on_miss": "text"}), ("tiny", settings)]


def test_answers_carry_counts_outside_the_message():
    llm = RefragLLM(FakeEngine())
    response = llm.chat([ChatMessage(content="hi")])
    assert response.message.content == "a b c"
    assert response.message.additional_kwargs == {}
    assert response.additional_kwargs == {"positions": 7, "cache_hits": 1}
    assert response.raw["cache_hits"] == 1
    last = list(llm.stream_complete("hi"))[-1]
    assert last.raw == response.raw == llm.complete("hi").raw


def test_token_counting_handler_sees_true_positions():
    counter = TokenCountingHandler()
    RefragLLM(FakeEngine(), callback_manager=CallbackManager([counter])).complete("hi")
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (7, 3)


def test_stream_gives_pieces_and_the_text_so_far():
    responses = list(RefragLLM(FakeEngine()).stream_chat([ChatMessage(content="hi")]))
    assert [response.delta for response in responses] == ["a ", "b ", "c ", ""]
    assert responses[1].message.content == "a b "


# --- LLM: errors and threads ---------------------------------------------------------------

SOURCES = [NodeWithScore(node=TextNode(text=f"fact {i}"), score=1.0) for i in range(2)]


@pytest.mark.parametrize("mode", ["refine", "compact", "tree_summarize", "simple_summarize"])
@pytest.mark.parametrize("error", [PromptTooLongError("too long"), ValueError("v"), TypeError("t")])
@pytest.mark.parametrize("chat", [True, False])
def test_no_synthesizer_swallows_an_error(mode, error, chat):
    llm = RefragLLM(FakeEngine(error=error, is_chat_model=chat))
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
    with pytest.raises(RefragError):
        synthesizer.synthesize("who?", SOURCES)
    with pytest.raises(RefragError):
        asyncio.run(synthesizer.asynthesize("who?", SOURCES))


def test_no_streaming_synthesizer_swallows_an_error():
    llm = RefragLLM(FakeEngine(error=ValueError("v")))
    synthesizer = get_response_synthesizer(llm=llm, response_mode="compact", streaming=True)
    with pytest.raises(RefragError):
        "".join(synthesizer.synthesize("who?", SOURCES).response_gen)


def test_async_streams_end_with_the_error():
    async def read():
        seen = []
        with pytest.raises(PromptTooLongError):
            async for response in await llm.astream_complete("hi"):
                seen.append(response.delta)
        return seen

    llm = RefragLLM(FakeEngine(error=PromptTooLongError("too long")))
    assert asyncio.run(read()) == ["a ", "b ", "c "]


def test_an_abandoned_async_stream_frees_its_thread():
    engine = FakeEngine("w " * 500, step_s=0.01)

    async def read_one():
        stream = await RefragLLM(engine).astream_chat([ChatMessage(content="hi")])
        await anext(stream)
        assert engine.running.is_set()
        await stream.aclose()
        del stream
        gc.collect()
        await asyncio.sleep(0.2)
        assert not engine.running.is_set()

    asyncio.run(read_one())
    assert engine.steps < 100


def test_async_calls_leave_the_event_loop_free():
    engine = FakeEngine("w " * 20, step_s=0.01)

    async def both():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        async for _ in await RefragLLM(engine).astream_complete("hi"):
            pass
        ticker.cancel()
        return ticks

    assert asyncio.run(both()) >= 5


def test_predict_uses_the_chat_template_and_the_system_prompt():
    engine = FakeEngine()
    llm = RefragLLM(engine, system_prompt="S")
    assert llm.predict(PromptTemplate("say {x}"), x="hi") == "a b c"
    assert [message["role"] for message in engine.calls[0][0]] == ["system", "user"]
    assert strip_spans(engine.calls[0][0][1]["content"]) == "say hi"
