"""stat, verify, garbage collection and their commands."""

import json

import pytest

from refrag_rag import StoreError
from refrag_rag.cli import main
from refrag_rag.spans import neutralise
from refrag_rag.store import LMDBStore, MemoryStore, passage_key
from refrag_rag.store.upkeep import collect_garbage, stat, verify
from tests.store.test_stores import entry

TEXTS = [f"Passage {i} tells of [[refrag]] {i * i}." for i in range(6)]
KEYS = [passage_key(neutralise(text)) for text in TEXTS]


@pytest.fixture
def path(tmp_path):
    """A store of six passages in two formats, in two namespaces."""
    place = tmp_path / "store"
    with LMDBStore(place) as store:
        store.put("a", {key: entry(seed=i, chunks=40) for i, key in enumerate(KEYS)})
    with LMDBStore(place, format="int8") as store:
        store.put("b", {KEYS[0]: entry(seed=9)})
    return place


def damage(path, needle):
    """Change one byte in the middle of some bytes of the data file."""
    data = bytearray((path / "data.mdb").read_bytes())
    place = data.index(needle) + len(needle) // 2
    data[place] ^= 1
    (path / "data.mdb").write_bytes(bytes(data))


def test_stat_counts(path, capsys):
    with LMDBStore(path) as store:
        first, second = stat(store).namespaces
        assert (first.namespace, first.passages, first.chunks, first.tokens) == ("a", 6, 240, 960)
        assert first.bytes == sum(len(data) for data in store.get_bytes("a", KEYS))
        assert first.formats == {"fp16": 6}
        assert second.formats == {"int8": 1}
        before = stat(store)
        store.delete("a", KEYS[1:])
        after = stat(store)
        assert after.free - before.free >= 5 * 40 * 16 * 2
        assert after.file - after.free < before.file - before.free
        store.compact()
        assert stat(store).free == 0
    assert main(["store", "stat", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "passages 1, chunks 40, tokens 160" in shown
    assert f"per token {first.bytes / 960:.1f}" in shown


def test_verify_finds_one_changed_bit(path, capsys):
    assert main(["store", "verify", str(path)]) == 0
    assert "7 entries, none damaged" in capsys.readouterr().out
    damage(path, entry(seed=3, chunks=40).embeddings[5:9].tobytes())
    with LMDBStore(path) as store:
        found = verify(store)
        assert store.get("a", [KEYS[3]]) == [None]
        assert store.get("a", [KEYS[2]])[0] is not None
    assert found.entries == 7
    assert [(one.namespace, one.key) for one in found.damaged] == [("a", KEYS[3])]
    assert main(["store", "verify", str(path)]) == 1
    shown = capsys.readouterr()
    assert KEYS[3] in shown.out
    assert "1 of 7 entries" in shown.err


def test_verify_names_values_of_others(path):
    with LMDBStore(path) as store:
        store.put_bytes("a", {"x": b"something else"})
        assert [one.key for one in verify(store).damaged] == ["x"]
        assert stat(store).namespaces[0].formats == {"fp16": 6, "damaged": 1}


def test_garbage_collection_keeps_what_lives(path):
    with LMDBStore(path) as store:
        counted = collect_garbage(store, KEYS[:2], dry_run=True)
        assert [(one.kept, one.removed) for one in counted] == [(2, 4), (1, 0)]
        assert len(list(store.keys("a"))) == 6
        assert collect_garbage(store, KEYS[:2]) == counted
        assert sorted(KEYS[:2]) == list(store.keys("a"))
        with pytest.raises(StoreError, match="everything would be removed"):
            collect_garbage(store, [])
        assert collect_garbage(store, ["none"], namespace="b")[0].removed == 1
        assert store.namespaces() == ["a"]


def test_garbage_collection_works_on_any_store():
    store = MemoryStore()
    store.put("a", {key: entry() for key in KEYS})
    assert collect_garbage(store, KEYS[3:])[0].removed == 3


@pytest.mark.parametrize("form", ["string", "text", "page_content"])
def test_gc_against_json_lines(path, tmp_path, capsys, form):
    source = tmp_path / "texts.jsonl"
    records = [text if form == "string" else {form: text, "id": 1} for text in TEXTS[:3]]
    source.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    command = ["store", "gc", str(path), "--against", str(source)]
    assert main([*command, "--dry-run"]) == 0
    assert "3 kept, 3 would be removed" in capsys.readouterr().out
    assert main([*command, "--namespace", "a"]) == 0
    assert "3 kept, 3 removed" in capsys.readouterr().out
    with LMDBStore(path) as store:
        assert sorted(store.keys("a")) == sorted(KEYS[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"body": "x"}', "line 1"),
        ("nonsense", "expected JSON"),
        ("3", "line 1"),
        ("", "everything"),
    ],
)
def test_gc_refuses_sources_it_cannot_read(path, tmp_path, capsys, content, message):
    source = tmp_path / "texts.jsonl"
    source.write_text(content)
    assert main(["store", "gc", str(path), "--against", str(source)]) == 1
    assert message in capsys.readouterr().err
    assert main(["store", "gc", str(path), "--against", str(tmp_path / "none.jsonl")]) == 1
    with LMDBStore(path) as store:
        assert len(list(store.keys("a"))) == 6


def test_commands_do_not_make_stores(tmp_path, capsys):
    for command in ("stat", "verify", "compact"):
        assert main(["store", command, str(tmp_path / "none")]) == 1
    assert "cannot be opened" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("metadata", ["compressed", "text"])
def test_gc_against_a_persisted_index(engine, tmp_path, capsys, metadata):
    core = pytest.importorskip("llama_index.core")
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.node_parser import SentenceSplitter

    from refrag_rag import Refrag
    from refrag_rag.llama_index import RefragTransform

    store = LMDBStore(tmp_path / "store")
    engine = Refrag(engine.model, store=store)
    documents = [
        core.Document(text=text, id_=str(i), metadata={"title": f"T{i}"})
        for i, text in enumerate(TEXTS)
    ]
    index = core.VectorStoreIndex.from_documents(
        documents,
        transformations=[
            SentenceSplitter(tokenizer=str.split),
            RefragTransform(engine, metadata=metadata),
        ],
        embed_model=MockEmbedding(4),
    )
    index.delete_ref_doc("2", delete_from_docstore=True)
    index.storage_context.persist(str(tmp_path / "storage"))
    before = set(store.keys(engine.namespace))
    command = ["store", "gc", str(tmp_path / "store"), "--metadata", metadata]
    assert main([*command, "--against", str(tmp_path / "storage")]) == 0
    assert "5 kept, 1 removed" in capsys.readouterr().out
    assert len(before - set(store.keys(engine.namespace))) == 1
    file = tmp_path / "storage" / "docstore.json"
    assert main([*command, "--against", str(file)]) == 0
    assert "5 kept, 0 removed" in capsys.readouterr().out
    file.write_text("[]")
    assert main([*command, "--against", str(file)]) == 1
    assert "document store" in capsys.readouterr().err
    store.close()


def on_disk(path, entry):
    """What of an entry's token ids and chunk embeddings stands in the data file."""
    data = (path / "data.mdb").read_bytes()
    ids = entry.token_ids.tobytes()
    return [piece in data for piece in (ids, entry.embeddings[0].tobytes())]


def test_nothing_of_a_deleted_document_is_left(engine, tmp_path):
    core = pytest.importorskip("llama_index.core")
    from refrag_rag import Refrag
    from refrag_rag.llama_index import RefragTransform

    path = tmp_path / "store"
    with LMDBStore(path) as store:
        engine = Refrag(engine.model, store=store)
        transform = RefragTransform(engine)
        nodes = [core.schema.TextNode(text=f"{text} It was long ago. " * 8) for text in TEXTS]
        twin = core.schema.TextNode(text=nodes[0].text)
        transform([*nodes, twin])
        keys = [passage_key(neutralise(node.get_content("llm"))) for node in nodes]
        entries = store.get(engine.namespace, keys)
        assert all(on_disk(path, one) == [True, True] for one in entries)
        assert transform.forget(nodes[:2], living=[twin]) == 1
        assert transform.forget(nodes[2:3]) == 1
        assert store.compact() > 0
        assert [on_disk(path, one) for one in entries] == [
            [True, True],
            [False, False],
            [False, False],
            *[[True, True]] * 3,
        ]
        answer = engine.generate(f"[[refrag]]{neutralise(nodes[1].text)}[[/refrag]] Who?")
        assert answer.counts.cache_misses == 1


def test_langchain_documents_are_forgotten(engine):
    documents = pytest.importorskip("langchain_core.documents")
    from refrag_rag.langchain import RefragIndexer

    found = [documents.Document(text, metadata={"title": "T"}) for text in TEXTS]
    for title_key in (None, "title"):
        indexer = RefragIndexer(engine, title_key=title_key)
        indexer.transform_documents(found)
        assert indexer.forget(found[:2], living=found[1:]) == 1
        assert indexer.forget(found) == 5
        assert engine.store.namespaces() == []
