"""``refrag compress``: measured before and after, chosen by targets, healed."""

import json

import pytest

from refrag_rag import RefragModel
from refrag_rag.cli import main
from tests.conftest import build_model

PASSAGES = [f"Passage {n}. The mill {n} stood by the river for years." for n in "abc"]


@pytest.fixture
def files(tokenizer, tmp_path):
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    record = {"question": "What stood?", "answers": ["mill"]}
    record["contexts"] = [{"text": text, "gold": text == PASSAGES[0]} for text in PASSAGES]
    data = tmp_path / "questions.jsonl"
    data.write_text((json.dumps(record) + "\n") * 3)
    return ["compress", str(tmp_path / "model"), "--data", str(data)]


@pytest.mark.parametrize("method", ["wanda", "svd"])
def test_a_method_is_measured_and_written(files, tmp_path, capsys, method):
    out, report = tmp_path / "small", tmp_path / "report.json"
    command = [*files, "--method", method, "--rate", "0.3", "--out", str(out)]
    assert main([*command, "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    before, after = rows["as it is"], rows[f"{method} 0.3"]
    assert (after["megabytes"] < before["megabytes"]) == (method == "svd")
    assert after["perplexity"] != before["perplexity"]
    assert f"| {method} 0.3 |" in capsys.readouterr().out
    RefragModel.from_pretrained(out)


def test_the_mildest_that_meets_the_targets(files, tmp_path, capsys):
    whole = sum(p.nbytes for p in RefragModel.from_pretrained(files[1]).decoder.parameters()) / 1e6
    report = str(tmp_path / "report.json")
    assert main([*files, "--memory", str(2 * whole), "--report", report]) == 0
    assert list(json.loads((tmp_path / "report.json").read_text())["rows"]) == ["as it is"]
    healed = ["--heal", files[-1], "--heal-steps", "1", "--out", str(tmp_path / "small")]
    assert main([*files, "--memory", str(0.8 * whole), "--report", report, *healed]) == 0
    names = list(json.loads((tmp_path / "report.json").read_text())["rows"])
    assert len(names) == 3
    assert names[1] in ("int8", "svd 0.1", "svd 0.2", "svd 0.3", "svd 0.5")
    capsys.readouterr()
    assert main([*files, "--memory", "0.001"]) == 1
    assert "Take a smaller decoder" in capsys.readouterr().err


def test_healing_teaches_an_adapter(files, tmp_path, capsys):
    out = tmp_path / "small"
    command = [*files, "--method", "wanda", "--out", str(out), "--heal", files[-1]]
    assert main([*command, "--heal-steps", "2"]) == 0
    assert "| wanda 0.5, healed |" in capsys.readouterr().out
    assert (out / "decoder_adapter").is_dir()
    first = RefragModel.from_pretrained(files[1])
    assert RefragModel.from_pretrained(out).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "given",
    [
        "",
        "--method svd --latency 5",
        "--latency 5 --rate 0.2",
        "--method wanda --heal x",
        "--method int8 --rate 0.2",
        "--method svd --rate 1",
    ],
)
def test_what_does_not_go_together(files, given, capsys):
    assert main([*files, *given.split()]) == 1
    assert "xpected" in capsys.readouterr().err
