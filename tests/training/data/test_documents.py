"""Prepared texts hold exactly the ids, can be read at any place, and are complete or not there."""

import json
import os
import signal
from collections import Counter
from random import Random

import numpy as np
import pytest
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from refrag_rag.errors import InputError
from refrag_rag.text.tokenization import PlainTokenizer
from refrag_rag.training.data.documents import Documents, prepare_documents
from refrag_rag.training.data.folder import PreparationReport
from refrag_rag.training.data.reading import Skipped

TEXTS = [
    "Velmora makes clocks. " * 3,
    "Hi",
    "é 🙂 <|end|> [[refrag]]",
    "Tarsk is 2,310 m high.\n" * 5,
]


@pytest.fixture
def ids(tokenizer):
    """Token ids of each text, one by one."""
    return [PlainTokenizer(tokenizer).encode(text)[0] for text in TEXTS]


@pytest.fixture
def folder(tokenizer, tmp_path):
    prepare_documents(TEXTS, tokenizer, tmp_path / "data", sources=["a.jsonl"])
    return tmp_path / "data"


@pytest.fixture
def documents(folder, tokenizer):
    return Documents.open(folder, tokenizer)


def kind_of(folder):
    return Dataset.from_file(str(folder / "tokens.arrow")).features["ids"].feature.dtype


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(folder):
    """Token ids of every document, straight from the file."""
    return list(Dataset.from_file(str(folder / "tokens.arrow"))["ids"])


def test_documents_are_the_ids_of_their_texts(folder, documents, ids):
    assert stored(folder) == ids
    assert len(documents) == 4
    assert documents.longest == max(map(len, ids))
    assert documents.run(Random(0), 3).dtype == np.int64


def test_the_report_counts(folder, documents, tokenizer, ids):
    report = documents.report
    assert report.counts == {
        "documents": 4,
        "tokens": sum(map(len, ids)),
        "longest": max(map(len, ids)),
        "characters": sum(map(len, TEXTS)),
    }
    assert report.sources == ["a.jsonl"]
    assert report.skipped == {}
    assert report.tokenizer["vocabulary"] == len(tokenizer)
    assert json.loads((folder / "report.json").read_text("utf-8"))["kind"] == "text"
    assert sorted(content(folder)) == ["report.json", "tokens.arrow"]
    assert kind_of(folder) == "uint16"


def test_control_tokens_never_come_out(folder, tokenizer):
    special = set(tokenizer.all_special_ids)
    assert special
    assert not special & {i for document in stored(folder) for i in document}


def test_large_vocabularies_take_four_bytes(tmp_path):
    words = {f"w{n}": n for n in range(70_000)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    parts = {"version": "1.0", "added_tokens": [], "model": model}
    parts["pre_tokenizer"] = {"type": "Whitespace"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)))
    prepare_documents(["w69999 w1"], tokenizer, tmp_path / "data")
    assert kind_of(tmp_path / "data") == "uint32"
    assert Documents.open(tmp_path / "data", tokenizer).run(Random(0), 2).tolist() == [69_999, 1]
    skipped = Skipped()
    texts = ["w2", "\u2003"]  # the second gives no token
    report = prepare_documents(texts, tokenizer, tmp_path / "data", skipped=skipped)
    assert report.skipped == {"text: no tokens": 1}
    assert report.counts["documents"] == 1


@pytest.mark.parametrize("length", [1, 6, 20])
def test_random_runs_are_slices_and_all_starts_are_drawn_alike(documents, ids, length):
    slices = [
        tuple(one[start : start + length]) for one in ids for start in range(len(one) - length + 1)
    ]
    rng, draws = Random(0), 200 * len(slices)
    drawn = Counter(tuple(documents.run(rng, length).tolist()) for _ in range(draws))
    expected = Counter(slices)  # equal slices of different places count together
    assert set(drawn) == set(expected)
    for run, count in drawn.items():
        mean = 200 * expected[run]
        assert abs(count - mean) < 6 * mean**0.5


def test_draws_depend_on_the_generator_alone(folder, tokenizer, documents):
    documents.run(Random(3), 4)
    other = Documents.open(folder, tokenizer)
    for step in range(20):
        first = documents.run(Random(step), 5)
        assert np.array_equal(first, other.run(Random(step), 5))


def test_continuations_follow_in_the_same_document(documents, ids):
    longest = documents.longest
    seen = set()
    for seed in range(200):
        context, following = documents.continuation(Random(seed), 8, longest - 10)
        assert (len(context), len(following)) == (8, longest - 10)
        both = [*context.tolist(), *following.tolist()]
        homes = [n for n, one in enumerate(ids) if _holds(one, both)]
        assert homes
        seen.update(homes)
    assert seen == {n for n, one in enumerate(ids) if len(one) >= longest - 2}


def _holds(ids, part):
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))


def test_too_long_runs_name_what_there_is(documents):
    longest = documents.longest
    with pytest.raises(InputError, match=rf"{longest + 1} tokens was asked.*has {longest};"):
        documents.continuation(Random(0), longest, 1)
    with pytest.raises(InputError, match="A run of 0 tokens"):
        documents.run(Random(0), 0)


def test_the_same_tokenizer_read_again_is_the_same(folder, tokenizer, tmp_path, ids):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert Documents.open(folder, again).longest == max(map(len, ids))


def test_another_tokenizer_is_refused(folder, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    other = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    other.add_tokens(["Velmora"])
    with pytest.raises(InputError, match=r"prepared with another tokenizer \(fingerprint [0-9a-f]"):
        Documents.open(folder, other)


def fewer(folder):
    """Another file of the same form, which lacks the last document."""
    whole = Dataset.from_file(str(folder / "tokens.arrow"))
    with ArrowWriter(path=str(folder / "part"), features=whole.features) as writer:
        for row in list(whole)[:-1]:
            writer.write(row)
        writer.finalize()
    (folder / "part").replace(folder / "tokens.arrow")


DAMAGE = {
    "no tokens": lambda folder: (folder / "tokens.arrow").unlink(),
    "cut tokens": lambda folder: os.truncate(folder / "tokens.arrow", 700),
    "no content": lambda folder: (folder / "tokens.arrow").write_bytes(b""),
    "another file": lambda folder: (folder / "tokens.arrow").write_bytes(b"\x93NUMPY" * 99),
    "fewer documents": fewer,
    "no report": lambda folder: (folder / "report.json").unlink(),
    "half a report": lambda folder: os.truncate(folder / "report.json", 30),
    "another report": lambda folder: (folder / "report.json").write_text('{"kind": "text"}'),
    "odd report": lambda folder: (folder / "report.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found(folder, tokenizer, damage):
    damage(folder)
    with pytest.raises(InputError, match=r"(damaged or missing|cannot be read).*Prepare the data"):
        Documents.open(folder, tokenizer)


def breaking():
    yield "one that is written"
    raise KeyboardInterrupt


@pytest.mark.parametrize("old", [False, True])
def test_an_error_in_the_middle_changes_nothing(tokenizer, tmp_path, old):
    folder = tmp_path / "data"
    if old:
        prepare_documents(TEXTS, tokenizer, folder)
        before = content(folder)
    with pytest.raises(KeyboardInterrupt):
        prepare_documents(breaking(), tokenizer, folder)
    assert [path.name for path in tmp_path.iterdir()] == (["data"] if old else [])
    if old:
        assert content(folder) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_in_the_middle_changes_nothing(folder, tokenizer):
    def killed():
        yield "one that is written"
        os.kill(os.getpid(), signal.SIGKILL)

    before = content(folder)
    child = os.fork()
    if not child:
        try:
            prepare_documents(killed(), tokenizer, folder)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert content(folder) == before
    prepare_documents(["new"], tokenizer, folder)
    assert len(Documents.open(folder, tokenizer)) == 1


def test_what_is_open_stays_readable_when_it_is_replaced(folder, tokenizer, documents, ids):
    prepare_documents(["new"], tokenizer, folder)
    drawn = documents.run(Random(0), documents.longest).tolist()
    assert drawn in ids
    assert PreparationReport.read(folder).counts["documents"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_other_files_are_not_replaced(folder, tokenizer, tmp_path):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt; expected a new or empty folder"):
        prepare_documents(TEXTS, tokenizer, folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="holds file; expected a new"):
        prepare_documents(TEXTS, tokenizer, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        prepare_documents(TEXTS, tokenizer, tmp_path / "file" / "below")


def test_nothing_to_prepare_is_an_error(tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"no document to prepare \(left out: nothing\)"):
        prepare_documents([], tokenizer, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
