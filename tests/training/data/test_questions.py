"""Questions are read, checked and counted; too many passages are cut around the gold ones."""

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.data.questions import load_questions, prepare_questions
from refrag_rag.training.data.reading import Skipped, read_records
from refrag_rag.training.data.records import Passage, QuestionRecord, question_record


def record(number, gold=None):
    return {
        "id": f"q{number}",
        "question": f"What is {number}?",
        "contexts": [{"text": f"{n} é", "title": "T", "gold": n == gold} for n in range(5)],
        "answers": [str(number)],
        "source": "not kept",
    }


def test_questions_of_a_file(write):
    path = write("a.jsonl.xz", [record(n, gold=n) for n in range(3)])
    questions = load_questions(path)
    assert [question.id for question in questions] == ["q0", "q1", "q2"]
    assert questions[1].passages[1] == Passage(text="1 é", title="T", gold=True)


def test_a_dataset_gives_the_same_questions(write, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    records = [record(n, gold=n) for n in range(3)]
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    questions = load_questions(write("a.jsonl", records))
    assert load_questions(f"hf:{tmp_path / 'saved'}") == questions
    assert load_questions(f"hf:{tmp_path / 'a.jsonl'}") == questions


def test_gold_passages_are_kept_first(write):
    path = write("a.jsonl", [record(0, gold=3), record(1)])
    first, second = load_questions(path, max_passages=2)
    assert [passage.text for passage in first.passages] == ["0 é", "3 é"]
    assert [passage.text for passage in second.passages] == ["0 é", "1 é"]
    assert (first.question, first.answers) == ("What is 0?", ("0",))
    with pytest.raises(InputError, match="max_passages is 0; expected None or at least 1"):
        load_questions(path, max_passages=0)


def test_bad_questions_are_named_or_counted(write):
    path = write("a.jsonl", [record(0), b"{", {**record(1), "answers": []}, {"question": 1}])
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: .*not JSON"):
        load_questions(path)
    skipped = Skipped()
    assert len(list(read_records([path], question_record, skipped=skipped))) == 1
    assert skipped == {
        "answers: empty": 1,
        "line: not JSON": 1,
        "question: wrong type": 1,
    }
    with pytest.raises(InputError, match="There is no question"):
        load_questions(write("b.jsonl", []))


def test_what_is_prepared_is_read_as_it_was(write, tmp_path):
    questions = load_questions(write("a.jsonl", [record(n, gold=n) for n in range(7)]))
    report = prepare_questions(questions, tmp_path / "data", sources=["a.jsonl"])
    assert load_questions(tmp_path / "data") == questions
    assert report.counts == {
        "questions": 7,
        "passages": 35,
        "answers": 7,
        "with_gold": 5,
        "characters": 105,
    }
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "questions.jsonl",
        "report.json",
    ]


def test_an_error_in_the_middle_changes_nothing(tmp_path):
    good = QuestionRecord(question="a", passages=(Passage(text="b"),), answers=("c",))
    prepare_questions([good], tmp_path / "data")
    before = (tmp_path / "data" / "questions.jsonl").read_bytes()

    def breaking():
        yield from [good] * 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_questions(breaking(), tmp_path / "data")
    with pytest.raises(InputError, match="There is no question"):
        prepare_questions([], tmp_path / "data")
    with pytest.raises(InputError, match=r"left out: \{'line: not JSON': 1\}"):
        prepare_questions([], tmp_path / "data", skipped=Skipped({"line: not JSON": 1}))
    assert (tmp_path / "data" / "questions.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
