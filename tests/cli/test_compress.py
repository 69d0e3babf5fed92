"""``refrag compress``: measured before and after, chosen by targets, healed."""

import json
from pathlib import Path

import pytest
import torch

from refrag_rag import Refrag, RefragModel
from refrag_rag.cli import main
from refrag_rag.errors import MissingExtraError, missing
from refrag_rag.evaluation.shrunk import stored_bytes
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
    made = RefragModel.from_pretrained(out).decoder.config.refrag_compressed
    assert made == {"method": method, "rate": 0.3}


def test_several_methods_in_one_table(files, tmp_path, capsys):
    report = tmp_path / "report.json"
    command = [*files, "--questions", "2", "--method", "wanda-2:4", "svd", "wanda"]
    assert main([*command, "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert list(rows) == ["as it is", "wanda-2:4 0.5", "svd 0.1", "wanda 0.5"]
    assert "wanda alone saves nothing" in capsys.readouterr().out


def test_int8_is_written_and_loaded(files, tmp_path, capsys):
    pytest.importorskip("torchao")
    out = tmp_path / "small"
    assert main([*files, "--method", "int8", "--out", str(out)]) == 0
    rounded, again = RefragModel.from_pretrained(files[1], quantization="int8"), Refrag.load(out)
    read = torch.arange(20)[None]
    with torch.inference_mode():
        said = [one.decoder(input_ids=read).logits for one in (rounded, again.model)]
    assert torch.equal(*said)
    assert stored_bytes(rounded.decoder) == stored_bytes(again.model.decoder)
    sizes = [(Path(one) / "decoder/model.safetensors").stat().st_size for one in (files[1], out)]
    assert sizes[1] < 0.7 * sizes[0]
    assert "method int8" in (out / "README.md").read_text()


def test_int8_that_was_written_needs_its_package(files, tmp_path):
    if not missing("quantization", ["torchao"]):
        pytest.skip("it is installed")
    path = Path(files[1]) / "decoder" / "config.json"
    written = {"quantization_config": {"quant_method": "torchao"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | written, indent=2))
    with pytest.raises(MissingExtraError, match="torchao"):
        Refrag.load(files[1])


def test_the_mildest_that_meets_the_targets(files, tmp_path, capsys):
    whole = sum(p.nbytes for p in RefragModel.from_pretrained(files[1]).decoder.parameters()) / 1e6
    report = str(tmp_path / "report.json")
    assert main([*files, "--memory", str(2 * whole), "--report", report]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["rows"]) == list(found["tried"]) == ["as it is"]
    healed = ["--heal", files[-1], "--heal-steps", "1", "--out", str(tmp_path / "small")]
    assert main([*files, "--memory", str(0.8 * whole), "--report", report, *healed]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    chosen = list(found["tried"])[-1]
    assert list(found["rows"]) == ["as it is", chosen, "healed"]
    sizes = [figures["megabytes"] for figures in found["tried"].values()]
    assert sizes[-1] <= 0.8 * whole < min(sizes[:-1])  # the first that is small enough
    assert f"| {chosen}, 5 questions |" in capsys.readouterr().out
    assert main([*files, "--memory", "0.001"]) == 1
    assert "Take a smaller decoder" in capsys.readouterr().err


def test_healing_teaches_an_adapter(files, tmp_path, capsys):
    out = tmp_path / "small"
    command = [*files, "--method", "wanda", "--out", str(out), "--heal", files[-1]]
    assert main([*command, "--heal-steps", "2"]) == 0
    assert "| healed |" in capsys.readouterr().out
    assert (out / "decoder_adapter").is_dir()
    assert "wanda, rate 0.5, healed on questions.jsonl" in (out / "README.md").read_text()
    first = RefragModel.from_pretrained(files[1])
    assert RefragModel.from_pretrained(out).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "given",
    [
        "",
        "--method svd --latency 5",
        "--latency 5 --rate 0.2",
        "--method wanda --heal x",
        "--method wanda svd --out x",
        "--method gptq",
        "--method int8 --rate 0.2",
        "--method svd --rate 1",
    ],
)
def test_what_does_not_go_together(files, given, capsys):
    assert main([*files, *given.split()]) == 1
    assert "xpected" in capsys.readouterr().err
