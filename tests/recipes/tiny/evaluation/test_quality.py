"""Scores, intervals, questions and arms."""

import json
import lzma
import os
import platform

import pytest
import torch

from recipes.tiny.evaluation.quality import Arm, measure, scores
from refrag_rag import InputError, Refrag
from refrag_rag.evaluation.metrics import exact_match, f1, normalise, wilson
from refrag_rag.evaluation.questions import Question, read_questions
from refrag_rag.evaluation.report import machine, write_json

QUESTIONS = [
    Question("Who?", ("Anna",), ("Anna did it in 1912, they say.", "Nothing to see here at all.")),
    Question("When?", ("1912", "in 1912"), ("It was in 1912 or so.", "Another passage of text.")),
]


def test_normalisation_is_squads():
    assert normalise("The  Red, Fox!") == "red fox"
    assert exact_match("the 5,895 metres", ["5895 metres"])
    assert not exact_match("5895", ["5895 metres"])


def test_f1_counts_common_words():
    assert f1("Anna Keld", ["Anna"]) == pytest.approx(2 / 3)
    assert f1("x", ["Anna"]) == 0
    assert f1("b c", ["x", "c d e b"]) == pytest.approx(2 / 3)


def test_wilson_interval():
    low, high = wilson(90, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert wilson(0, 0) == (0.0, 1.0)


ARMS = (Arm("all", "all", 1.0), Arm("none", "none", 0.0), Arm("random", "random", 0.2))


def test_every_arm_reads_what_it_says(model):
    answers = measure(Refrag(model), QUESTIONS, ARMS)
    full, vectors, random = (answers[arm.name][0].counts for arm in ARMS)
    assert full.positions == full.plain_positions == vectors.plain_positions
    assert vectors.expanded == 0
    assert random.expanded == max(1, round(0.2 * random.chunks))


def test_arms_are_answered_and_scored(model):
    answers = measure(Refrag(model), QUESTIONS, ARMS[:2], batch=1)
    found = list(scores(QUESTIONS, answers))
    assert [one.arm for one in found] == ["all", "none"]
    assert all(one.questions == 2 and 0 <= one.low <= one.exact <= one.high for one in found)
    assert found[0].positions > found[1].positions


def test_a_report_says_where_it_was_measured_and_can_be_read(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(machine() | {"exact": 0.5}, path)
    found = json.loads(path.read_text("utf-8"))
    assert found["exact"] == 0.5
    assert found["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__
    assert f"{os.cpu_count()} cores" in found["machine"]


def test_questions_from_a_file(tmp_path):
    good = {"question": "Q", "answers": ["A"], "contexts": [{"title": "T", "text": "Text."}]}
    path = tmp_path / "q.jsonl.xz"
    path.write_bytes(lzma.compress((json.dumps(good) + "\n" + json.dumps(good)).encode()))
    assert read_questions(path, limit=1) == [Question("Q", ("A",), ("T\nText.",))]
    path.write_bytes(lzma.compress((json.dumps(good) + "\n{}").encode()))
    with pytest.raises(InputError, match="line 2"):
        read_questions(path)
