"""Teacher answers: from full text, of what could be read, as data for the last stage."""

import json

import pytest

from refrag_rag import Refrag
from refrag_rag.training.data.questions import QUESTIONS, load_questions
from refrag_rag.training.teacher import EMPTY, TOO_LONG, write_answers
from tests.conftest import build_model


def record(name: str, filler: int = 0) -> dict[str, object]:
    text = f"{name} was founded in 1923. " + "It makes clocks. " * filler
    return {
        "id": name,
        "question": f"When was {name} founded?",
        "answers": ["never"],
        "contexts": [{"title": name, "text": text, "gold": True}],
    }


@pytest.fixture
def source(tmp_path):
    def write(*records):
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        return path

    return write


def test_answers_are_the_teachers_from_full_text(tokenizer, source, tmp_path, monkeypatch):
    teacher = Refrag(build_model(tokenizer))
    asked = []
    real = teacher.generate_batch

    def watched(prompts, **options):
        asked.extend(real(prompts, **options))
        return asked[-len(prompts) :] if prompts else []

    monkeypatch.setattr(teacher, "generate_batch", watched)
    path = source(record("Velmora"), record("Tarsk"), record("Belu"))
    report = write_answers(path, tmp_path / "out", teacher, max_new_tokens=6, batch_size=2)

    found = load_questions(tmp_path / "out" / QUESTIONS)
    assert [one.answers for one in found] == [(answer.text.strip(),) for answer in asked]
    assert [one.id for one in found] == ["Velmora", "Tarsk", "Belu"]
    assert all(a.counts.chunks and a.counts.expanded == a.counts.chunks for a in asked)
    assert report.counts["questions"] == 3


def test_what_is_too_long_or_unanswered_is_left_out_and_counted(tokenizer, source, tmp_path):
    teacher = Refrag(build_model(tokenizer, positions=256))
    path = source(record("Velmora"), record("Tarsk", filler=200), record("Belu"))
    report = write_answers(path, tmp_path / "out", teacher, max_new_tokens=4)
    assert report.skipped == {TOO_LONG: 1}
    assert [one.id for one in load_questions(tmp_path / "out")] == ["Velmora", "Belu"]


def test_an_empty_answer_teaches_nothing(tokenizer, source, tmp_path, monkeypatch):
    teacher = Refrag(build_model(tokenizer))
    real = teacher.generate_batch

    def silent_first(prompts, **options):
        first, *rest = real(prompts, **options)
        return [first.__class__(**{**vars(first), "text": " "}), *rest]

    monkeypatch.setattr(teacher, "generate_batch", silent_first)
    report = write_answers(
        source(record("Velmora"), record("Tarsk")), tmp_path / "out", teacher, max_new_tokens=4
    )
    assert report.skipped == {EMPTY: 1}
    assert report.counts["questions"] == 1
