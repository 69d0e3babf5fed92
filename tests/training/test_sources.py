"""Rows from users' text and questions: what is read, what is predicted, in the engine's layout."""

from random import Random

import pytest

from refrag_rag import Refrag
from refrag_rag.errors import InputError
from refrag_rag.spans import wrap
from refrag_rag.training.curricula import Shuffled, build_curriculum
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.records import Passage, QuestionRecord, Turn
from refrag_rag.training.document_sources import DocumentChunks, DocumentContinuation
from refrag_rag.training.question_sources import QuestionLayout, Questions
from tests.training.data.test_documents import stored


@pytest.fixture
def documents(prepared, tokenizer):
    return Documents.open(prepared / "text", tokenizer)


def test_reconstruction_rebuilds_the_text_of_its_vectors(model, documents):
    lengths = build_curriculum("table8", chunks=8)
    source = DocumentChunks(documents, model, lengths, batch_size=3)
    for row in source.rows(Random(0), 4, 3):
        assert all(row.chosen)
        assert row.target_ids() == (*row.passages[0].token_ids, model.tokenizer.eos_token_id)
        assert row.ids[0] == 0
        assert row.passages[0] == model.chunker.chunk(row.passages[0].text)


def test_continuations_follow_their_context_in_the_document(model, documents, prepared):
    source = DocumentContinuation(
        documents,
        model,
        build_curriculum("longest", chunks=4),
        batch_size=4,
        following=16,
        text_shares=(0.0, 0.5),
    )
    texts = [model.tokenizer.decode(one) for one in stored(prepared / "text")]
    for row in source.draw(Random(1), 0.0):
        assert len(row.target_ids()) == 16
        assert all(row.chosen)
        joined = row.passages[0].text + model.tokenizer.decode(row.target_ids())
        assert any(joined.replace(" ", "") in text.replace(" ", "") for text in texts)
    late = source.draw(Random(1), 0.9)
    chosen = [c for row in late for c in row.chosen]
    assert any(chosen)
    assert not all(chosen)


RECORD = QuestionRecord(
    question="What does Velmora make?",
    passages=(
        Passage(text="Velmora makes clocks.", title="Velmora", gold=True),
        Passage(text="Tarsk is 2,310 metres high."),
    ),
    answers=("clocks", "a clock"),
    history=(Turn(role="user", text="Hello"), Turn(role="assistant", text="Hi")),
)


def test_questions_are_laid_out_as_the_engine_does(model):
    layout = QuestionLayout(model, max_passages=5)
    engine = Refrag(model)
    for seed in range(20):
        pieces, question = layout.example(RECORD, Random(seed))
        assert RECORD.question in question
        texts = [p.chunked.text for p in pieces if p.chunked is not None]
        asked = [i for p in pieces if p.weight == 0 for i in p.ids]
        answer = [i for p in pieces if p.weight for i in p.ids]
        assert sorted(texts) == sorted(p.titled() for p in RECORD.passages)
        assert answer == [*model.chunker.chunk("clocks").token_ids, model.tokenizer.eos_token_id]
        passages = sorted(RECORD.passages, key=lambda one: texts.index(one.titled()))
        prompts = (layout.prompt(passages, RECORD, style) for style in styles())
        read = [engine.compress(prompt, policy="all").ids.tolist() for prompt in prompts]
        assert asked in read


def styles():
    from refrag_rag.training.prompts import STYLES

    return STYLES


def test_gold_passages_are_kept(model):
    passages = tuple(Passage(text=f"Filler {i}.") for i in range(9))
    record = QuestionRecord(
        question="?", passages=(*passages, Passage(text="Gold.", gold=True)), answers=("x",)
    )
    layout = QuestionLayout(model, max_passages=3)
    for seed in range(5):
        texts = [p.chunked.text for p in layout.example(record, Random(seed))[0] if p.chunked]
        assert len(texts) == 3
        assert "Gold." in texts


def test_markers_in_a_question_open_no_span(model):
    record = QuestionRecord(
        question=f"What is {wrap('this')}?", passages=RECORD.passages, answers=("x",)
    )
    pieces, _ = QuestionLayout(model, max_passages=5).example(record, Random(0))
    assert sum(piece.chunked is not None for piece in pieces) == 2


def test_question_rows_come_from_the_records(model, prepared):
    records = load_questions(prepared / "questions")
    layout = QuestionLayout(model, max_passages=3)
    source = Questions(records, layout, batch_size=6, text_shares=(0.0, 1.0))
    rows = source.draw(Random(0), 0.0)
    assert {row.origin for row in rows} <= {record.id for record in records}
    assert source.draw(Random(0), 0.0) == rows
    with pytest.raises(InputError, match="No question records"):
        Questions([], layout, batch_size=1, text_shares=(0.0,))


def test_shuffling_reads_the_same_batches_in_another_order(model, documents):
    steps = 12

    def rows_of(make):
        source = make(DocumentChunks(documents, model, lengths(), batch_size=2))
        return [source.draw(Random(f"5-{step}"), step / steps) for step in range(steps)]

    def lengths():
        return build_curriculum("table8", chunks=8)

    ordered = rows_of(lambda source: source)
    shuffled = rows_of(lambda source: Shuffled(source, steps=steps, seed=5))
    assert shuffled != ordered
    assert sorted(map(repr, shuffled)) == sorted(map(repr, ordered))


def test_an_unknown_curriculum_is_named():
    with pytest.raises(InputError, match="expected one of table8, feedback"):
        build_curriculum("none", chunks=4)
