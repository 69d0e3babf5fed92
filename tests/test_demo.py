"""The demo: its collections, and what it prints, with the real model and retriever."""

import re

import pytest

from refrag_rag.cli import main
from refrag_rag.demo import run
from refrag_rag.demo.questions import COLLECTIONS, demo_folder, demo_questions

ASKED = [
    ("How high is Kilimanjaro?", ["5,895 metres"]),
    ("Who wrote Moby-Dick?", ["nobody whom the text names"]),
]


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_answer_stands_in_the_documents(name):
    texts = [path.read_text("utf-8") for path in (demo_folder(name) / "documents").iterdir()]
    asked = demo_questions(name)
    assert len(asked) >= 24
    assert len({question for question, _ in asked}) == len(asked)
    for question, answers in asked:
        assert question.endswith("?")
        assert any(answer in text for answer in answers for text in texts), question


def test_the_addresses_are_long():
    documents = (demo_folder("addresses") / "documents").iterdir()
    assert sum(len(path.read_text("utf-8").split()) for path in documents) > 30_000


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the demo prints for two questions: cut to a table, and whole."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "demo_questions", lambda name: ASKED)
        patched.setattr(run, "_marks", lambda: ("+", "-"))
        return ["\n".join(run.run_demo(collections=["facts"], full=full)) for full in (False, True)]


def test_right_and_wrong_are_marked_and_counted(shown):
    for text in shown:
        assert "+ 5,895 metres" in text
        assert "- Herman Melville" in text
        assert "right: 1 of 2 from full text, 1 compressed" in text
        assert "through LangChain, compressed: 1 of 2 right" in text
        assert "Columns: the two answers (+ right, - wrong)" in text


def test_the_documents_behind_an_answer_are_named(shown):
    table, whole = shown
    assert re.search(r"How high is Kilimanjaro\?.*Kilimanjaro; ", table)
    (names,) = re.findall(r"How high.*?from +(.*?)\n", whole, re.DOTALL)
    assert names.startswith("Kilimanjaro; ")
    assert len(names.split("; ")) == 8
    assert "expected    5,895 metres" in whole
    assert "store       8 of 8 passages" in whole


def test_a_question_of_ones_own(capsys):
    assert main(["demo", "--ask", "How high is Kilimanjaro?", "--full"]) == 0
    text = capsys.readouterr().out
    assert text.count("5,895 metres") == 3
    assert "right:" not in text
    assert main(["demo", "--ask", " "]) == 1
    assert "question is empty" in capsys.readouterr().err
