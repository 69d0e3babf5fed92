"""One call from files to a folder that training reads."""

import json

import pytest

from refrag_rag.errors import InputError
from refrag_rag.text.tokenization import PlainTokenizer
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.data.prepare import prepare
from refrag_rag.training.data.questions import load_questions
from refrag_rag.training.data.reading import Skipped, read_records
from refrag_rag.training.data.records import question_record
from tests.training.data.test_documents import stored

TEXTS = [{"text": "One.", "title": "First"}, {"text": "Two."}, {"text": "Three."}]
QUESTION = {"question": "Who?", "contexts": ["Ann did."], "answers": ["Ann"]}


def test_texts_of_several_sources(write, tokenizer, tmp_path):
    sources = [write("b.jsonl", TEXTS[:1]), str(write("a.jsonl.gz", TEXTS[1:]))]
    report = prepare(sources, tokenizer, tmp_path / "out")
    documents = Documents.open(tmp_path / "out", tokenizer)
    expected = [PlainTokenizer(tokenizer).encode(text["text"])[0] for text in TEXTS]
    assert stored(tmp_path / "out") == expected
    assert documents.report == report
    assert report.sources == list(map(str, sources))


def test_files_and_datasets_together(write, tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    data = datasets.DatasetDict({"a": datasets.Dataset.from_list(TEXTS[1:])})
    data.save_to_disk(tmp_path / "saved")
    sources = [write("a.jsonl", TEXTS[:1]), f"hf:{tmp_path / 'saved'}"]
    report = prepare(sources, tokenizer, tmp_path / "out", split="a")
    assert report.counts["documents"] == 3


def test_what_is_left_out_is_in_the_report(write, tokenizer, tmp_path):
    path = write("a.jsonl", [TEXTS[0], b"{", {"text": ""}, {"text": ""}, {"body": "x"}])
    with pytest.raises(InputError, match=r"a\.jsonl, line 2"):
        prepare([path], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare([path], tokenizer, tmp_path / "out", skip_bad=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["skipped"] == {"line: not JSON": 1, "text: empty": 2, "text: missing": 1}
    assert report["counts"]["documents"] == 1


def test_questions(write, tmp_path, tokenizer):
    path = write("a.jsonl", [QUESTION, {**QUESTION, "answers": 1}])
    report = prepare([path], None, tmp_path / "out", "questions", skip_bad=True)
    assert report.skipped == {"answers: wrong type": 1}
    found = list(read_records([path], question_record, skipped=Skipped()))
    assert load_questions(tmp_path / "out") == found
    with pytest.raises(InputError, match="holds prepared questions; expected text"):
        Documents.open(tmp_path / "out", tokenizer)


def test_arguments_are_checked(write, tokenizer, tmp_path):
    path = write("a.jsonl", TEXTS)
    with pytest.raises(InputError, match="expected a list of at least one source"):
        prepare(str(path), tokenizer, tmp_path / "out")
    with pytest.raises(InputError, match="kind is 'audio'; expected one of text, questions"):
        prepare([path], tokenizer, tmp_path / "out", "audio")
    with pytest.raises(InputError, match="The tokenizer is None"):
        prepare([path], None, tmp_path / "out")
    with pytest.raises(InputError, match="only for data sets"):
        prepare([path], tokenizer, tmp_path / "out", split="train")
    with pytest.raises(InputError, match="does not exist"):  # before the first is read
        prepare([path, tmp_path / "gone.jsonl"], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
