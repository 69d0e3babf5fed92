"""Chat, precomputing, both frameworks and the store, small."""

import json

import pytest

from benchmarks import chat, frameworks, precompute, quantization, serving, store
from benchmarks.formats import measure_format, measure_formats
from benchmarks.models import load
from benchmarks.prompts import AROUND
from refrag_rag import InputError, Refrag
from refrag_rag.evaluation.questions import Question
from refrag_rag.generation.answer import Answer, Timings
from refrag_rag.llama_index import RefragPostprocessor
from refrag_rag.store import LMDBStore, passage_key
from tests.conftest import TINY
from tests.serving.fake_vllm import served

QUESTIONS = [
    Question("Who?", ("Anna",), ("Anna did it in 1912, they say. " * 4, "Nothing to see here.")),
    Question("When?", ("1912",), ("It was in 1912 or so. " * 4, "Another passage of text.")),
]


def measured(benchmark, asked, path):
    benchmark.main([*asked.split(), "--json", str(path / "report.json")])
    return json.loads((path / "report.json").read_text("utf-8"))


def test_precompute_is_held_against_a_bare_loop(tmp_path, capsys):
    asked = "--model test --passages 20 --rounds 2 --batch-size 8"
    found = measured(precompute, asked, tmp_path)
    assert found["ours"]["encoded"] == {"median": 20, "low": 20, "high": 20}
    assert found["ours"]["runs"] == found["bare"]["runs"] == 2
    times = {
        "ours": {"median": 4.0, "low": 3, "high": 5},
        "bare": {"median": 2, "low": 1, "high": 3},
    }
    report = {**found, **{name: {"seconds": one} for name, one in times.items()}}
    assert "| text to store | 4.00 (3.00 to 5.00) | 5.0 |" in precompute.markdown(report)
    share = found["bare"]["seconds"]["median"] / found["ours"]["seconds"]["median"]
    assert f"reaches {share:.0%} of" in capsys.readouterr().out


def test_the_second_turn_of_a_chat_is_mostly_reused(tmp_path, capsys):
    found = measured(chat, "--model test --context 512 --rounds 2", tmp_path)
    assert found["reused"] >= 512 // 16 + AROUND
    assert found["positions"] - found["reused"] < 60
    assert found["without"]["reused"]["high"] == 0
    assert found["without"]["positions"] == found["with"]["positions"]
    assert found["same_token"]
    assert f"{found['reused']} of them reused" in capsys.readouterr().out
    found |= {"with": {"ttft": {"median": 0.1}}, "without": {"ttft": {"median": 0.25}}}
    assert "TTFT 100 ms instead of 250 ms, 2.5x" in chat.markdown(found)


def test_serving_is_held_against_the_model_itself(tiny_model, tmp_path, capsys):
    with served(tiny_model.decoder) as (server,):
        asked = f"--model {TINY} --backend {server.url} --at-once 1 3 --context 64 --rounds 2"
        found = measured(serving, f"{asked} --tokens 4", tmp_path)
        assert len(server.bodies) == 3 * (1 + 3)  # two rounds, and one before that does not count
    assert [(row["at_once"], row["runs"]) for row in found["rows"]] == [(1, 2)] * 3 + [(3, 2)] * 3
    for row in found["rows"]:
        assert row["new_tokens"] == found["rows"][0 if row["at_once"] == 1 else 3]["new_tokens"]
        assert row["tokens"]["median"] >= row["answers"]["median"] > 0
    assert "| 3 | the model, one batch |" in capsys.readouterr().out


def test_both_frameworks_end_to_end_with_their_stages(tmp_path, capsys, monkeypatch):
    engines, prompts = [], []
    build, generate = RefragPostprocessor.__init__, frameworks.KeptAnswer.generate

    def listen(self, prompt, **settings):
        prompts.append(str(prompt))
        return generate(self, prompt, **settings)

    def look(self, *given, **named):
        engines.append(given)
        build(self, *given, **named)

    monkeypatch.setattr(frameworks.KeptAnswer, "generate", listen)
    monkeypatch.setattr(RefragPostprocessor, "__init__", look)
    found = measured(frameworks, "--model test --passages 3 --rounds 2 --tokens 2", tmp_path)
    assert [len(given) for given in engines] == [1]  # with the engine, as the docs show it
    assert set(found["chains"]) == {"LlamaIndex", "LangChain"}
    for chain in found["chains"].values():
        assert chain["cache_hits"] == 3
        assert chain["positions"] < chain["plain_positions"] / 2
        ours = chain["ours"]
        assert set(found["stages"]) <= set(ours)
        assert min(ours[stage]["low"] for stage in found["stages"]) >= 0
        before = sum(ours[one]["median"] for one in found["stages"] if one != "decode")
        assert before <= ours["ttft"]["high"] * 1.5
        assert chain["bare"]["runs"] == ours["runs"] == chain["plain"]["runs"] == 2
    assert all("first of them" in prompt for prompt in prompts)
    # A chain is asked once beforehand, and then three times on each side.
    assert ["[[refrag]]" in p or "[[refrag " in p for p in prompts] == [
        True,
        *([True, False] * 3),
    ] * 2
    assert "| LangChain |" in capsys.readouterr().out


def test_the_stages_add_up_to_the_time_to_the_first_token():
    spent = Timings(
        lookup_s=0.01, encode_s=0.02, assemble_s=0.03, ttft_s=0.1, decode_s=0.05, total_s=0.15
    )
    engine = object.__new__(frameworks.KeptAnswer)
    engine.last = Answer(text="", token_ids=[], counts=None, timings=spent, finish_reason="stop")
    found = frameworks.staged(engine, lambda: None)
    parts = [found[stage] for stage in frameworks.STAGES if stage != "decode"]
    assert sum(parts) == pytest.approx(found["ttft"])
    assert found["prefill"] == pytest.approx(0.04)
    assert found["framework"] == pytest.approx(-0.15, abs=0.01)  # the chain took no time


def test_formats_are_measured_on_the_models_own_vectors(model):
    rows = {row["format"]: row for row in measure_formats(model, QUESTIONS)}
    assert set(rows) == {"fp32", "fp16", "bf16", "int8"}
    errors = [rows[name]["error"] for name in ("fp32", "fp16", "bf16", "int8")]
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[-1] < 1e-3
    assert rows["fp32"]["vector_bytes"] == 2 * rows["fp16"]["vector_bytes"]
    assert rows["int8"]["vector_bytes"] < 0.6 * rows["fp16"]["vector_bytes"]
    assert rows["int8"]["file_bytes"] <= rows["fp32"]["file_bytes"]
    assert all(len(row["answers"]) == 2 for row in rows.values())
    assert all(row["answers"][0]["questions"] == 2 for row in rows.values())
    table = store.markdown({"formats": list(rows.values()), "growth": []})
    assert len(table.splitlines()) == 6
    assert "| `int8` |" in table


def test_a_format_gives_back_what_it_keeps():
    engine = Refrag(load("test", 8), vectors="float32")
    engine.precompute(["A text that is encoded, and cut into some chunks."])
    key = passage_key("A text that is encoded, and cut into some chunks.")
    (entry,) = engine.store.get(engine.namespace, [key])
    read, row = measure_format("fp16", {key: entry})
    expected = entry.embeddings.astype("float16").astype("float32")
    assert (read[key].embeddings == expected).all()
    assert row["vector_bytes"] == 2 * entry.embeddings.size / len(entry.token_ids)
    assert row["encode_speed"] > 0


def test_a_store_grows_to_2000_passages(tmp_path, capsys):
    asked = f"--passages 2000 --rounds 3 --folder {tmp_path / 'store'}"
    report = measured(store, asked, tmp_path)
    assert [row["passages"] for row in report["growth"]] == [1000, 2000]
    assert report["growth"][-1]["file_bytes"] == pytest.approx(28_900 / 256, rel=0.05)
    assert all(row["read_ms"] <= row["worst_ms"] for row in report["growth"])
    assert report["compaction"]["deleted"] == 200
    assert report["compaction"]["bytes_given_back"] > 200 * 24_576
    said = capsys.readouterr().out
    assert "| 2,000 |" in said
    assert "Deleting 200 of them" in said
    with LMDBStore(tmp_path / "store") as kept:
        assert len(list(kept.keys("n" * 32))) == 1800
    with pytest.raises(InputError, match="not empty"):
        measured(store, asked, tmp_path)


@pytest.mark.parametrize("weights", [[], ["int8"]], ids=["cache alone", "int8"])
def test_fewer_bits_are_held_against_the_exact_ones(model, tmp_path, capsys, weights):
    if weights:
        pytest.importorskip("torchao")
    model.save_pretrained(tmp_path / "model")
    lines = [
        {
            "question": one.text,
            "answers": one.answers,
            "contexts": [{"text": text} for text in one.passages],
        }
        for one in QUESTIONS
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = f"--model {tmp_path}/model --data {data} --quantization {' '.join(weights)}"
    exact, *small, cache = measured(quantization, asked, tmp_path)["cells"]
    assert exact["decoder_bytes"] == sum(4 * p.numel() for p in model.decoder.parameters())
    assert cache["decoder_bytes"] == exact["decoder_bytes"]
    assert all(one["decoder_bytes"] < exact["decoder_bytes"] for one in small)
    assert exact["difference"] == [0, 0, 0]
    said = capsys.readouterr().out
    assert all(f"| {name} |" in said for name in ("none", *weights, "KV cache fp8"))
