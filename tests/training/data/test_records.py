"""Records are read as they are, or refused with place and field."""

import copy

import pytest

from refrag_rag.training.data.records import (
    BadRecordError,
    Passage,
    QuestionRecord,
    Turn,
    question_record,
    text_record,
)

GOOD = {"question": "Who?", "contexts": ["Ann did."], "answers": ["Ann"]}


def test_texts():
    assert text_record({"text": " a\n", "other": 1}) == " a\n"


def test_all_forms_of_a_question():
    assert question_record(GOOD) == QuestionRecord(
        question="Who?", passages=(Passage(text="Ann did."),), answers=("Ann",)
    )
    full = {
        "id": "q",
        "question": "Who?",
        "passages": [{"text": "Ann did.", "title": "A", "gold": True}, {"text": "b"}, "c"],
        "answer": "Ann",
        "history": [{"role": "user", "text": "Hi"}, {"role": "agent", "content": "Yes?"}],
    }
    record = question_record(full)
    assert record.passages == (
        Passage(text="Ann did.", title="A", gold=True),
        Passage(text="b"),
        Passage(text="c"),
    )
    assert record.passages[0].titled() == "A\nAnn did."
    assert record.answers == ("Ann",)
    assert record.history == (Turn(role="user", text="Hi"), Turn(role="assistant", text="Yes?"))
    assert question_record(record.to_record()) == record


def test_the_first_name_counts():
    record = question_record({**GOOD, "passages": ["other"], "answer": 1})
    assert [passage.text for passage in record.passages] == ["Ann did."]
    assert record.answers == ("Ann",)


TEXTS = [
    ({}, "text: missing", "field 'text' is missing"),
    ({"txt": "a", "text": None}, "text: missing", "'text' is missing"),
    ({"text": 12}, "text: wrong type", r"field 'text' is 12 \(int\)"),
    ({"text": " \n"}, "text: empty", r"field 'text' is ' \\n' \(str\)"),
    ({"text": "a\ud800"}, "text: not UTF-8", r"field 'text' is 'a\\ud800'"),
]
QUESTIONS = [
    ({"id": 1.5}, "id: wrong type", r"field 'id' is 1.5 \(float\)"),
    ({"id": True}, "id: wrong type", r"field 'id' is True \(bool\)"),
    (
        {"contexts": [{"text": "a", "title": ["T"]}]},
        "contexts[].title: wrong type",
        r"field 'contexts\[0\].title' is \['T'\] \(list\)",
    ),
    ({"history": "Hi"}, "history: wrong type", r"field 'history' is 'Hi'"),
    ({"question": None}, "question: missing", "field 'question' is missing"),
    ({"contexts": None}, "contexts: missing", "field 'contexts' is missing"),
    ({"contexts": []}, "contexts: empty", r"field 'contexts' is \[\] \(list\)"),
    ({"contexts": "a"}, "contexts: wrong type", r"field 'contexts' is 'a' \(str\)"),
    ({"contexts": ["a", ""]}, "contexts[]: empty", r"field 'contexts\[1\]' is ''"),
    ({"contexts": ["a", 5]}, "contexts[]: wrong type", r"field 'contexts\[1\]' is 5 \(int\)"),
    ({"contexts": [{"title": "T"}]}, "contexts[].text: missing", r"field 'contexts\[0\].text' is"),
    (
        {"contexts": [{"text": "a", "gold": "yes"}]},
        "contexts[].gold: wrong type",
        r"field 'contexts\[0\].gold' is 'yes' \(str\); expected true or false",
    ),
    (
        {"contexts": [{"text": "a", "score": "high"}]},
        "contexts[].score: wrong type",
        r"field 'contexts\[0\].score' is 'high' \(str\); expected a number",
    ),
    ({"answers": []}, "answers: empty", r"field 'answers' is \[\] \(list\); expected a list of"),
    ({"answers": None}, "answers: missing", "field 'answers' is missing"),
    ({"answers": "Ann"}, "answers: wrong type", r"field 'answers' is 'Ann' \(str\)"),
    ({"answers": ["a", " "]}, "answers[]: empty", r"field 'answers\[1\]' is ' '"),
    ({"answers": None, "answer": 3}, "answer: wrong type", r"field 'answer' is 3 \(int\)"),
    ({"history": ["Hi"]}, "history[]: wrong type", r"field 'history\[0\]' is 'Hi'"),
    (
        {"history": [{"role": "robot", "text": "Hi"}]},
        "history[].role: unknown",
        r"field 'history\[0\].role' is 'robot' \(str\); expected one of user, assistant",
    ),
    ({"history": [{"role": "user"}]}, "history[].text: missing", r"'history\[0\].text' is"),
]


@pytest.mark.parametrize(("record", "reason", "message"), TEXTS)
def test_a_bad_text_is_named(record, reason, message):
    refused(text_record, record, reason, message)


@pytest.mark.parametrize(("change", "reason", "message"), QUESTIONS)
def test_a_bad_question_is_named(change, reason, message):
    refused(question_record, {**GOOD, **change}, reason, message)


def refused(read, record, reason, message):
    with pytest.raises(BadRecordError, match=message) as found:
        read(record)
    assert "; expected " in str(found.value)
    assert found.value.reason == reason
    again = copy.copy(found.value)  # as it is sent from another process
    assert (str(again), again.reason) == (str(found.value), reason)


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(BadRecordError) as found:
        text_record({"text": ["a" * 1000]})
    assert len(str(found.value)) < 300
