"""Rows from users' text and questions: what is read, what is predicted, in the engine's layout."""

import dataclasses
from random import Random

import pytest

from refrag_rag import Refrag, RefragModel
from refrag_rag.errors import InputError
from refrag_rag.policies import get_policy
from refrag_rag.prompt import VECTOR
from refrag_rag.spans import wrap
from refrag_rag.training.batches import arrange
from refrag_rag.training.chunk_sizes import ChunkSizes
from refrag_rag.training.curricula import Shuffled, build_curriculum
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.records import Passage, QuestionRecord, Turn
from refrag_rag.training.document_sources import DocumentChunks, DocumentContinuation
from refrag_rag.training.layout import QuestionLayout, chosen_masks, word_policy
from refrag_rag.training.packing import Drawn
from refrag_rag.training.prompts import REPEAT
from refrag_rag.training.question_sources import Questions, Reading
from refrag_rag.training.rehearsal import Rehearsal
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
    reading = Reading(sizes=ChunkSizes((8,)), text_shares=(0.0, 1.0))
    source = Drawn(Questions([records], layout, reading).row, batch_size=6)
    rows = source.draw(Random(0), 0.0)
    assert {row.origin for row in rows} <= {record.id for record in records}
    assert source.draw(Random(0), 0.0) == rows
    with pytest.raises(InputError, match="No question records"):
        Questions([[]], layout, reading)


def test_sets_are_drawn_by_their_weights(model, prepared):
    records = load_questions(prepared / "questions")
    layout = QuestionLayout(model, max_passages=3)
    reading = Reading(sizes=ChunkSizes((8,)), text_shares=(0.0,))
    questions = Questions([records[:2], records[2:]], layout, reading, weights=(3.0, 1.0))
    rng = Random(0)
    first = {record.id for record in records[:2]}
    share = sum(questions.row(rng, 0.0).origin in first for _ in range(200)) / 200
    assert 0.65 < share < 0.85
    for weights in ((1.0,), (0.0, 0.0), (-1.0, 2.0)):
        with pytest.raises(InputError, match="expected one for each of 2 sets"):
            Questions([records, records], layout, reading, weights=weights)


def test_other_records_fill_up_the_passages(model, prepared):
    records = load_questions(prepared / "questions")
    layout = QuestionLayout(model, max_passages=8)
    reading = Reading(sizes=ChunkSizes((8,)), text_shares=(0.5,), passages=(1, 8), distractors=True)
    questions, by_id = Questions([records], layout, reading), {one.id: one for one in records}
    counts = set()
    for seed in range(20):
        row = questions.row(Random(seed), 0.0)
        texts = [piece.chunked.text for piece in row.pieces if piece.chunked is not None]
        counts.add(len(texts))
        assert len(set(texts)) == len(texts)
        gold = next(one.titled() for one in by_id[row.origin].passages if one.gold)
        assert gold in texts
    assert counts == {1, 8}
    alone = Questions([records[:1]], layout, reading)
    assert len(alone.row(Random(0), 0.0).passages) <= len(records[0].passages)


def test_long_examples_lose_passages_without_the_answer(model, prepared):
    records = load_questions(prepared / "questions")
    layout = QuestionLayout(model, max_passages=3)

    def questions(longest):
        reading = Reading(sizes=ChunkSizes((8,)), text_shares=(1.0,), longest=longest)
        return Questions([records], layout, reading)

    whole = [questions(None).row(Random(seed), 0.0) for seed in range(20)]
    longest = sorted(row.tokens for row in whole)[5]
    by_id = {one.id: one for one in records}
    for seed in range(20):
        row = questions(longest).row(Random(seed), 0.0)
        assert row.tokens <= longest
        text = model.tokenizer.decode(row.ids)
        gold = next(one.text for one in by_id[row.origin].passages if one.gold)
        assert gold.replace(" ", "") in text.replace(" ", "")
    with pytest.raises(InputError, match="longest = 5"):
        questions(5).row(Random(0), 0.0)


def test_a_policy_chooses_what_stays_text(model):
    layout = QuestionLayout(model, max_passages=5)
    reading = Reading(
        sizes=ChunkSizes((4,)), text_shares=(0.4,), choosing=(word_policy("lexical"),)
    )
    for seed in range(10):
        row = Questions([[RECORD]], layout, reading).row(Random(seed), 0.0)
        assert sum(not one for one in row.chosen) == round(0.4 * len(row.chosen))
        texts = [text for passage in row.passages for text in passage.chunk_texts()]
        kept = "".join(t for t, vector in zip(texts, row.chosen, strict=True) if not vector)
        assert "Velmora" in kept
    with pytest.raises(InputError, match="needs perplexity"):
        word_policy("perplexity")


def test_an_instruction_says_what_to_do_with_a_text(model, documents):
    lengths = build_curriculum("longest", chunks=4)
    source = DocumentChunks(documents, model, lengths, asked=True, sizes=ChunkSizes((8,), (1, 2)))
    early, late = source.row(Random(0), 0.1), source.row(Random(0), 0.9)
    assert {len(chunk) for chunk in early.passages[0].chunk_ids()} == {1}
    assert {len(chunk) for chunk in late.passages[0].chunk_ids()} <= {1, 2}
    for row in (early, late):
        asked = model.tokenizer.decode(row.ids[: row.vectors.index(True)])
        assert any(one.strip()[:4] in asked for one in REPEAT)
        assert row.target_ids() == (*row.passages[0].token_ids, model.tokenizer.eos_token_id)


def test_what_is_rehearsed_weighs_little_and_is_no_target(model, documents, prepared):
    records = load_questions(prepared / "questions")
    reading = Reading(sizes=ChunkSizes((8,)), text_shares=(0.0,))
    own = Questions([records], QuestionLayout(model, max_passages=3), reading).row
    options = {"share": 0.5, "weight": 0.1, "chunks": 4}
    rehearsal = Rehearsal(own, documents, model, reading.sizes, **options)
    rows = [rehearsal.row(Random(seed), 0.5) for seed in range(60)]
    light = [row for row in rows if not row.origin]
    assert 20 < len(light) < 40
    assert all(set(row.weights) == {0.0, 0.1} and not any(row.targets) for row in light)
    assert all(set(row.weights) == {0.0, 1.0} for row in rows if row.origin)


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


def test_further_questions_are_about_passages_that_are_there(model):
    def record(name, passages):
        return QuestionRecord(
            question=f"What does {name} make?", passages=passages, answers=(f"things {name}",)
        )

    texts = {name: f"{name} makes things {name}." for name in ("Velmora", "Tarsk", "Belu", "Keld")}
    golds = {name: Passage(text=text, gold=True) for name, text in texts.items()}
    others = [Passage(text=texts[name], gold=False) for name in ("Tarsk", "Belu", "Keld")]
    records = [record("Velmora", (golds["Velmora"], *others))]
    records += [record(name, (golds[name],)) for name in ("Tarsk", "Belu", "Keld")]
    reading = Reading(sizes=ChunkSizes((8,)), text_shares=(0.0,), questions=(1, 3))
    questions = Questions(
        [records[:1], records[1:]],
        QuestionLayout(model, max_passages=3),
        reading,
        weights=(1.0, 0.0),
    )
    end, counts = model.tokenizer.eos_token_id, set()
    for seed in range(20):
        row = questions.row(Random(seed), 0.0)
        there = {p.text for p in row.passages}
        answers = [
            model.tokenizer.decode(p.ids).strip()
            for p in row.pieces
            if p.target and list(p.ids) != [end]
        ]
        counts.add(len(answers))
        assert answers[0] == "things Velmora"
        assert len(set(answers)) == len(answers)
        assert all(any(answer in text for text in there) for answer in answers)
    assert counts == {1, 3}


@pytest.mark.parametrize("boundary", [None, ("<|bos|>", "<|end|>"), ("", "<|end|>")])
@pytest.mark.parametrize("policy", ["none", "lexical", "all"])
def test_rows_have_the_tokens_around_vectors_that_prompts_have(model, boundary, policy):
    config = dataclasses.replace(model.config, boundary=boundary)
    parts = {n: getattr(model, n) for n in ("encoder", "projector", "decoder", "tokenizer")}
    bounded = RefragModel(config=config, **parts)
    layout, engine = QuestionLayout(bounded, max_passages=3), Refrag(bounded)
    passages = [Passage(text=f"Velmora {n} makes clocks by the river. " * 3) for n in "abc"]
    record = QuestionRecord(question="Who makes b?", passages=tuple(passages), answers=("x",))
    prompt = layout.prompt(passages, record, styles()[1])
    pieces, question = layout.lay_out(prompt, "x")
    masks = chosen_masks(pieces, question, get_policy(policy), 0.4)
    asked = engine.compress(prompt, policy=policy, p=0.4)
    row = arrange(pieces[:-2], masks)  # without the answer and its end
    assert list(row.vectors) == (asked.ids == VECTOR).tolist()
    assert list(row.ids) == [0 if id_ == VECTOR else id_ for id_ in asked.ids.tolist()]
