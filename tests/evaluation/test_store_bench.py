"""refrag bench store, small."""

import json

import pytest

from refrag_rag.cli import main
from refrag_rag.evaluation.questions import Question
from refrag_rag.evaluation.store_formats import markdown, measure_formats
from refrag_rag.evaluation.store_growth import Shape, measure_compaction, measure_growth
from refrag_rag.store import LMDBStore

QUESTIONS = [
    Question("Who?", ("Anna",), ("Anna did it in 1912, they say. " * 4, "Nothing to see here.")),
    Question("When?", ("1912",), ("It was in 1912 or so. " * 4, "Another passage of text.")),
]


def test_formats_are_measured_on_the_models_own_vectors(model):
    rows = {row.format: row for row in measure_formats(model, QUESTIONS)}
    assert set(rows) == {"fp32", "fp16", "bf16", "int8", "sq8"}
    assert rows["fp32"].error == 0
    assert 0 < rows["fp16"].error < rows["bf16"].error < rows["int8"].error < 1e-3
    assert rows["fp32"].vector_bytes == 2 * rows["fp16"].vector_bytes
    assert rows["int8"].vector_bytes < 0.6 * rows["fp16"].vector_bytes
    assert rows["sq8"].file_bytes is None
    assert rows["int8"].file_bytes <= rows["fp32"].file_bytes
    assert all(len(row.answers) == 2 for row in rows.values())
    assert rows["fp16"].answers[0]["positions"] == rows["fp32"].answers[0]["positions"]
    from dataclasses import asdict

    table = markdown([asdict(row) for row in rows.values()])
    assert len(table.splitlines()) == 7
    assert "| `int8` |" in table


def test_a_store_grows_to_2000_passages(tmp_path, capsys):
    target = tmp_path / "store.json"
    command = ["bench", "store", "--questions", "0", "--passages", "2000", "--json", str(target)]
    assert main([*command, "--folder", str(tmp_path / "store")]) == 0
    assert "| 2,000 |" in capsys.readouterr().out
    report = json.loads(target.read_text())
    assert [row["passages"] for row in report["growth"]] == [1000, 2000]
    assert report["growth"][-1]["file_bytes"] == pytest.approx(28_900 / 256, rel=0.05)
    assert report["compaction"]["deleted"] == 200
    assert report["compaction"]["bytes_given_back"] > 200 * 24_576
    with LMDBStore(tmp_path / "store") as store:
        assert len(list(store.keys("n" * 32))) == 1800
    assert main([*command, "--folder", str(tmp_path / "store")]) == 1
    assert "not empty" in capsys.readouterr().err


def test_other_shapes_and_formats(tmp_path):
    shape = Shape(tokens=20, k=8, width=32)
    (row,) = measure_growth(tmp_path / "store", 600, shape=shape, vectors="int8")
    assert row.passages == 600
    assert row.file_bytes < 40  # keys of 98 bytes for passages of 20 tokens
    assert measure_compaction(tmp_path / "store")["deleted"] == 60
