"""Questions from text: what is asked of a sentence, how documents are cut, and what is written."""

import time
from random import Random

import pytest

from refrag_rag.cli.train import prepare
from refrag_rag.errors import InputError
from refrag_rag.training.data.cloze import BLANK, Cloze, cloze
from refrag_rag.training.data.made_questions import UNASKED, Making, made_questions
from refrag_rag.training.data.passages import passages, sentences
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.reading import Skipped
from refrag_rag.training.data.records import Document

LONG = "and later taught mathematics there with several younger colleagues."
PARAGRAPH = (
    "The stone bridge across the northern river was opened in {} after years of slow work. "
    "Engineers from Lisbon had drawn the plans before anybody knew about the great flood. "
)


def document(number, paragraphs=12):
    text = "\n".join(PARAGRAPH.format(1800 + n) * 2 + f"Mark {n}." for n in range(paragraphs))
    return Document(text=text, title=f"Bridge {number}")


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        (f"Ada Byron was born in Leiden {LONG}", "Where was Ada Byron born?", "Leiden"),
        (f"Ada Byron was born on 3 May 1815, {LONG}", "When was Ada Byron born?", "3 May 1815"),
        (f"Ada Byron died in 1852, {LONG}", "When did Ada Byron die?", "1852"),
        (f"Oslo is the capital of Norway, {LONG}", "What is Oslo the capital of?", "Norway"),
        (f"The Guild was founded by Ann Lee, who {LONG[4:]}", "Who founded The Guild?", "Ann Lee"),
        (
            "In 1952, Robeson was awarded the national prize after several painful journeys.",
            "In which year was Robeson awarded the national prize after several painful journeys?",
            "1952",
        ),
        (
            "In 1874 the Northern Guild left its great wooden halls beside the river.",
            "In which year did the Northern Guild leave its great wooden halls beside the river?",
            "1874",
        ),
    ],
)
def test_simple_sentences_are_asked_directly(sentence, question, answer):
    assert cloze(sentence, None, Random(0)) == Cloze(question, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "1,204",
        "12%",
        "3.5 million",
        "1.2\u00a0million",
        "27\u00a0December 1795",
        "120 square metres",
        "July 20, 1969",
        "Ludwig van Beethoven",
        "\u00c9mile Zola",
    ],
)
def test_the_answer_is_a_whole_span(answer):
    sentence = f"The council counted {answer} among things which visitors remember most fondly."
    found = cloze(sentence, None, Random(0))
    assert found.answer == answer
    assert found.question.endswith(sentence.replace(answer, BLANK))


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Too short in 1900.",
        "He was elected mayor of the northern harbour town during 1900 without opposition.",
        "The council counted 12 ships and then another 12 boats before evening came again.",
        "| The council | counted 1900 | ships among things which visitors remember fondly.",
        "The council of Oslo counted ships among things which visitors remember fondly.",
        "The council counted Ann J. Ellis among things which visitors remember most fondly.",
        "Visitors remember most fondly that their council finally finished with 51\u2013111 games.",
        'Visitors remember most fondly the council\'s report "Variations of Snow everywhere".',
        "Visitors remember most fondly the council and the Greeks' treachery before evening came.",
        "Visitors remember fondly nothing else's evening: He captured another northern harbour.",
        "In 1975 he was awarded the first Distinguished Alumni medal from several Lisbon colleges.",
        "Because of this many visitors from Lisbon still remember their northern council fondly.",
        "Visitors remember their council most fondly from the Year of Constantine and Licinian.",
        "Visitors remember most fondly that something there measured almost 1900 or more than.",
        "1900 1901 1902 1903 1904 1905 1906 1907 1908 1909 1910.",
    ],
)
def test_unsafe_sentences_give_nothing(sentence):
    assert cloze(sentence, "Oslo", Random(0)) is None


def test_a_year_is_called_a_year_and_one_founder_of_two_is_not_the_answer():
    year = "Visitors remember most fondly that their council finally opened in 1900 beside water."
    questions = {cloze(year, None, Random(seed)).question for seed in range(40)}
    assert len(questions) == 6
    assert {one for one in questions if "Which" in one} == {
        f"Which year {form} {year.replace('1900', BLANK)}"
        for form in ("is missing:", "completes this sentence?")
    }
    two = f"The Guild was founded by Ann Lee and Bob Ray, who {LONG[4:]}"
    assert BLANK in cloze(two, None, Random(0)).question


def test_records_have_the_answer_and_distractors_of_the_document():
    documents = [document(n) for n in range(5)]
    made = list(made_questions(documents, Making(), Skipped()))
    assert made == list(made_questions(documents, Making(), Skipped()))
    assert made != list(made_questions(documents, Making(seed=1), Skipped()))
    for record in made:
        (gold,) = [one for one in record.passages if one.gold]
        (source,) = [one for one in documents if one.title == gold.title]
        sentence = record.question.split(": ")[-1].split("? ")[-1].replace(BLANK, record.answers[0])
        assert sentence in gold.text
        assert len({one.text for one in record.passages}) == len(record.passages) <= 8
        assert all(one.text in source.text for one in record.passages)
        assert not any(sentence in one.text for one in record.passages if not one.gold)
    assert len(list(made_questions(documents, Making(limit=3), Skipped()))) == 3


def test_texts_without_questions_are_counted():
    skipped = Skipped()
    texts = ["1 2 3", "|a|b|\n|-|-|\n|1|2|", "<p>12</p>", "\u65e5\u672c\u8a9e\u3002" * 99, "."]
    assert not list(made_questions([Document(text=one) for one in texts], Making(), skipped))
    assert skipped == {UNASKED: len(texts)}
    with pytest.raises(InputError, match="per_passage is 0; expected at least 1"):
        Making(per_passage=0)


def test_passages_are_parts_of_the_text_and_lose_none():
    for seed in range(20):
        rng = Random(seed)
        text = "".join(rng.choices(["Ab 1. ", "\n", "\n\n", "x" * 700, "\u00e9 ", "Dr. "], k=200))
        found = passages(text, Random(0))
        assert all(one in text and len(one) <= 1200 for one in found)
        assert "".join("".join(found).split()) == "".join(text.split())
    assert sentences("It was else's. He had 8. Then no.") == [
        "It was else's.",
        "He had 8.",
        "Then no.",
    ]
    assert sentences("Dr. J. Smith left. He ran.\nEnd") == ["Dr. J. Smith left.", "He ran.", "End"]


def test_a_long_line_takes_linear_time():
    for unit in ("A", "1", "Aa ", "1.", "(", "Aa of "):
        start = time.process_time()
        list(made_questions([Document(text=unit * (2_000_000 // len(unit)))], Making(), Skipped()))
        assert time.process_time() - start < 10


def test_the_command_reads_a_split_of_a_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = {name: [{"text": document(name).text, "title": name}] for name in "ab"}
    splits = {name: datasets.Dataset.from_list(rows[name]) for name in rows}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    source, out = f"hf:{tmp_path / 'saved'}", tmp_path / "made"
    prepare([source, "--out", str(out), "--questions", "--split", "b"])
    assert {one.title for made in load_questions(out) for one in made.passages} == {"b"}
    with pytest.raises(InputError, match="config 'gone'"):
        prepare([source, "--out", str(out), "--questions", "--name", "gone"])


def test_the_command_writes_what_training_reads(write, tmp_path, capsys):
    records = [{"text": document(n).text, "title": "T", "id": n} for n in range(2)]
    path = write("a.jsonl", [*records, {"text": "None."}])
    command = [str(path), "--out", str(tmp_path / "made")]
    prepare([*command, "--questions", "--distractors", "2"])
    assert "left out: {'text: no question': 1}" in capsys.readouterr().out
    assert all(len(one.passages) <= 3 for one in load_questions(tmp_path / "made"))
    with pytest.raises(InputError, match="only with --questions"):
        prepare([*command, "--kind", "questions", "--seed", "3"])
    with pytest.raises(InputError, match="There is no question"):
        prepare([str(write("b.jsonl", [{"text": "None."}])), *command[1:], "--questions"])
