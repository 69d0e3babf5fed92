"""LlamaIndex postprocessor and transformation, with a scripted engine."""

import asyncio
import pickle

import pytest

pytest.importorskip("llama_index.core")

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

from refrag_rag.errors import InputError
from refrag_rag.llama_index import (
    RefragPostprocessor,
    RefragTransform,
    passage_text,
)
from refrag_rag.spans import MARKED, find_spans, neutralise
from tests.fake_engine import FakeEngine

MODES = ["compressed", "text", "drop"]


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
        RefragTransform(store=tmp_path, load_kwargs={"revision": "2"}).to_dict(),
        RefragTransform(FakeEngine()).to_dict(),
    ]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert RefragTransform.from_dict(keys[0]).to_dict() == keys[0]
    secret = RefragTransform(store=tmp_path, load_kwargs={"token": "s3cret"})
    assert "s3cret" not in str(secret.to_dict())


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither an engine nor a store"):
        RefragTransform()
    with pytest.raises(InputError, match="store"):
        RefragTransform(FakeEngine(), store=tmp_path)
    with pytest.raises(InputError, match="another process"):
        pickle.dumps(RefragTransform(FakeEngine()))
    assert pickle.loads(pickle.dumps(RefragTransform(store=tmp_path))).store == str(tmp_path)
    assert pickle.loads(pickle.dumps(RefragPostprocessor(metadata="drop"))).metadata == "drop"
    with pytest.raises(InputError, match="another process"):
        pickle.dumps(RefragPostprocessor(FakeEngine()))


def test_what_other_llms_read_is_logged_once(caplog):
    caplog.set_level("INFO", "refrag_rag")
    postprocessor = RefragPostprocessor()
    for _ in range(2):
        postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text="Tarsk is high."))])
    assert [record.message for record in caplog.records] == [MARKED]
