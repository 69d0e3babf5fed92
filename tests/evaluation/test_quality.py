"""Scores, intervals, questions and arms."""

import json
import lzma
import os
import platform

import numpy as np
import pytest
import torch

from refrag_rag import InputError, Refrag
from refrag_rag.evaluation.metrics import exact_match, f1, normalise, wilson
from refrag_rag.evaluation.quality import ARMS, foreign_store, measure, scores
from refrag_rag.evaluation.questions import Question, read_questions
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.store import passage_key

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


def test_every_arm_reads_what_it_says(model):
    engine = Refrag(model)
    answers = measure(engine, QUESTIONS)
    counts = {arm: found[0].counts for arm, found in answers.items()}
    assert counts["full text"].positions == counts["full text"].plain_positions
    assert counts["no context"].spans == 0
    compressed = counts["all chunks compressed"]
    assert compressed.expanded == 0
    assert compressed.plain_positions == counts["full text"].positions
    random = counts["random, 20% as text"]
    assert random.expanded == max(1, round(0.2 * random.chunks))
    result = {row.arm: row for row in scores(QUESTIONS, answers)}
    tokens = sum(len(model.chunker.chunk(p).token_ids) for q in QUESTIONS for p in q.passages)
    chunks = sum(len(model.chunker.chunk(p)) for q in QUESTIONS for p in q.passages)
    assert result["all chunks compressed"].span_share == pytest.approx(chunks / tokens)
    assert result["full text"].span_share is None


def test_foreign_embeddings_come_from_passages_outside_the_prompt(model):
    questions = [
        Question("Q?", ("a",), tuple(f"Passage {4 * i + j} tells of {i * j}." for j in range(4)))
        for i in range(3)
    ]
    engine = Refrag(model)
    engine.precompute([p for q in questions for p in q.passages])
    store = foreign_store(engine, questions)
    for question in questions:
        own = [
            engine.store.get(engine.namespace, [passage_key(p)])[0].embeddings
            for p in question.passages
        ]
        for passage in question.passages:
            swapped = store.get(engine.namespace, [passage_key(passage)])[0]
            kept = engine.store.get(engine.namespace, [passage_key(passage)])[0]
            assert swapped.token_ids.tolist() == kept.token_ids.tolist()
            assert not any(np.array_equal(swapped.embeddings, other) for other in own)


def test_arms_are_answered_and_scored(model):
    answers = measure(Refrag(model), QUESTIONS, ARMS[:2])
    found = list(scores(QUESTIONS, answers))
    assert [one.arm for one in found] == ["full text", "no context"]
    assert all(one.questions == 2 and 0 <= one.exact <= 1 for one in found)
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
