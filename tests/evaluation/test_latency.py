"""`refrag bench latency` on a shape of two layers."""

import json
import math
import mmap

import pytest

from refrag_rag import InputError, Refrag
from refrag_rag.cli import main
from refrag_rag.evaluation import latency_clock
from refrag_rag.evaluation.latency_clock import TRIES, Run, Runs
from refrag_rag.evaluation.latency_prompts import AROUND, Passages, prompt_around
from refrag_rag.evaluation.latency_shapes import DECODERS, ENCODERS, random_model
from refrag_rag.evaluation.latency_sides import kv_bytes, not_cached
from refrag_rag.evaluation.latency_tables import (
    PAPER,
    ceiling,
    markdown,
    of_ceiling,
    overhead,
    plot,
    speed_up,
)


@pytest.fixture(scope="module")
def shape():
    return random_model("test", 16)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "latency.json"
    arguments = "bench latency --model test --contexts 128 300 --k 8 16 --batches 1 2 --tokens 3"
    assert main([*arguments.split(), "--rounds", "2", "--json", str(path)]) == 0
    assert path.with_suffix(".png").exists()
    return json.loads(path.read_text("utf-8"))


def test_every_cell_has_every_side_with_its_positions(report):
    cells = report["cells"]
    assert [(c["context"], c["batch"], c["k"]) for c in cells] == [
        (n, b, k) for n in (128, 300) for b in (1, 2) for k in (8, 16)
    ]
    for cell in cells:
        assert cell["full_positions"] == cell["context"] + AROUND
        chunks = sum(
            math.ceil(n / cell["k"]) for n in ([128] if cell["context"] == 128 else [256, 44])
        )
        assert cell["positions"] == chunks + AROUND
        for side in ("plain", "cached", "not_cached"):
            assert cell[side]["ttft"]["low"] <= cell[side]["ttft"]["median"]
            assert cell[side]["runs"] >= 2
            assert cell[side]["ttit"]["median"] > 0
            assert len(cell[side]["cpu_shares"]) == cell[side]["runs"]
        assert cell["not_cached"]["encode"]["low"] > 0
        assert cell["cached"]["encode"]["high"] == 0
        assert cell["bare"]["seconds"]["median"] > 0
        assert cell["bare"]["runs"] == cell["cached"]["runs"]
        assert cell["overhead"]["low"] <= overhead(cell) <= cell["overhead"]["high"]
    assert report["machine"]["versions"]["torch"]
    assert report["machine"]["dtype"] == "float32"


def test_kv_memory_is_what_the_compressed_length_allows(report):
    for cell in report["cells"]:
        chunks = cell["positions"] - AROUND
        allowed = (chunks + AROUND) / (cell["context"] + AROUND)
        share = cell["kv_bytes"]["ours"] / cell["kv_bytes"]["plain"]
        assert share <= allowed * 1.02
        assert share == pytest.approx(allowed)


@pytest.mark.parametrize("k", [8, 16, 32])
def test_kv_memory_of_whole_passages(k):
    model = random_model("test", k)
    engine = Refrag(model, policy="none")
    context = 512
    prompt = prompt_around(engine, Passages(model).passages(context))
    plain, ours = (kv_bytes(engine, [prompt], policy) for policy in ("all", "none"))
    assert ours / plain <= (math.ceil(context / k) + AROUND) / (context + AROUND) * 1.02
    shape = DECODERS["test"]
    width = 2 * shape.layers * shape.kv_heads * shape.width // shape.heads * 4
    assert plain == (context + AROUND) * width


def test_tables_give_the_ratios(report):
    text = markdown(report)
    cell = report["cells"][0]
    assert f"{speed_up(cell):.1f}x | {ceiling(cell):.1f}x" in text
    assert f"| {of_ceiling(cell):.0%} | {overhead(cell):.2f} |" in text
    assert text.count("| 128 |") == 8  # two tables, two batch sizes, two k
    assert "the paper's" not in text
    as_paper = report | {"settings": {**report["settings"], "model": "llama-7b"}}
    as_paper["cells"] = [c | {"context": 16384} for c in report["cells"]]
    assert "| 16.53x |" in markdown(as_paper)
    assert "| about 9.2x |" in markdown(as_paper)


def test_plots_are_drawn(report, tmp_path):
    plot(report, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize("tokens", [1, 44, 256])
def test_passages_have_exactly_so_many_tokens(shape, tokens):
    assert len(shape.chunker.chunk(Passages(shape).passage(tokens)).token_ids) == tokens


def test_prompts_have_so_many_positions_outside(shape):
    engine = Refrag(shape, policy="none")
    prompt = prompt_around(engine, Passages(shape).passages(512))
    assert engine.compress(prompt).positions == 512 // 16 + AROUND
    with pytest.raises(InputError, match="No question"):
        prompt_around(engine, Passages(shape).passages(64), positions=1)


def test_not_cached_encodes_every_time(shape):
    engine = Refrag(shape)
    prompt = prompt_around(engine, Passages(shape).passages(64))
    work = not_cached(shape, [prompt], 1)
    assert work()["encode"] > 0
    assert work()["encode"] > 0


def run(share):
    return Run(seconds=1.0, cpu_share=share, peak=0, values={"ttft": share})


@pytest.mark.parametrize(
    ("shares", "kept", "thrown", "disturbed"),
    [
        ([0.95], [0.95], 0, 0),
        ([0.3, 0.95], [0.95], 1, 0),
        ([0.3] * TRIES, [0.3], TRIES - 1, 1),
    ],
)
def test_a_run_without_the_cores_is_thrown_away(monkeypatch, shares, kept, thrown, disturbed):
    left = iter(shares)
    monkeypatch.setattr(latency_clock, "timed", lambda work, threads: run(next(left)))
    runs = Runs(threads=2)
    runs.measure(dict)
    assert [one.cpu_share for one in runs.kept] == kept
    assert (runs.thrown_away, runs.disturbed) == (thrown, disturbed)


def test_sides_are_compared_run_by_run():
    fast, slow = Run(1.0, 1.0, 0, {"seconds": 1.0}), Run(9.0, 1.0, 0, {"seconds": 9.0})
    ours = Runs(2, kept=[Run(1.1, 1.0, 0, {"ttft": 1.1}), Run(9.9, 1.0, 0, {"ttft": 9.9})])
    found = ours.beside("ttft", Runs(2, kept=[fast, slow]), "seconds")
    assert found == pytest.approx({"median": 1.1, "low": 1.1, "high": 1.1})


def test_the_share_of_the_ceiling_sets_each_side_against_its_bare_pass():
    assert of_ceiling({"plain_overhead": {"median": 1.0}, "overhead": {"median": 1.25}}) == 0.8


def test_a_run_is_held_against_the_best_of_its_kind():
    runs = Runs(threads=2, kept=[run(0.98)])
    assert not runs.undisturbed(run(0.8))
    assert runs.undisturbed(run(0.93))
    assert Runs(threads=0, kept=[run(0.98)]).undisturbed(run(0.01))


def test_peak_memory_is_seen():
    def work():  # pages of its own, whatever the allocator keeps
        with mmap.mmap(-1, 64 << 20) as memory:
            return {"n": float(sum(memory.write(bytes(1 << 20)) for _ in range(64)))}

    assert latency_clock.timed(work, 1).peak > 32 << 20


def test_every_shape_names_an_encoder():
    for shape in DECODERS.values():
        assert shape.encoder in ENCODERS
        assert shape.width % shape.heads == 0
    assert set(PAPER) == {8, 16, 32}
    with pytest.raises(InputError, match="expected one of smollm-135m"):
        random_model("gpt-5", 16)
    with pytest.raises(InputError, match="roberta-base"):
        random_model("test", 16, encoder="none")


def test_precompute_is_held_against_a_bare_loop(tmp_path, capsys):
    path = tmp_path / "precompute.json"
    arguments = "bench precompute --model test --passages 20 --rounds 2 --batch-size 8"
    assert main([*arguments.split(), "--json", str(path)]) == 0
    found = json.loads(path.read_text("utf-8"))
    assert found["ours"]["encoded"] == {"median": 20.0, "low": 20.0, "high": 20.0}
    assert found["share_of_bare"] == pytest.approx(
        found["bare"]["seconds"]["median"] / found["ours"]["seconds"]["median"]
    )
    assert f"reaches {found['share_of_bare']:.0%}" in capsys.readouterr().out


def test_both_frameworks_end_to_end_with_their_stages(tmp_path, capsys):
    path = tmp_path / "frameworks.json"
    arguments = "bench frameworks --model test --passages 3 --rounds 2 --tokens 2"
    assert main([*arguments.split(), "--json", str(path)]) == 0
    chains = json.loads(path.read_text("utf-8"))["chains"]
    assert set(chains) == {"LlamaIndex", "LangChain"}
    for chain in chains.values():
        assert chain["cache_hits"] == 3
        assert chain["positions"] < chain["plain_positions"] / 2
        ours = chain["ours"]
        parts = [ours[stage]["median"] for stage in (
            "framework", "spans and tokenizer", "store", "layout", "inputs", "projector", "prefill"
        )]  # fmt: skip
        assert min(parts) >= 0
        assert ours["decode"]["low"] > 0
        assert sum(parts) <= ours["ttft"]["high"] * 1.5
        assert chain["plain"]["projector"]["high"] == 0
        ttft, bare = ours["ttft"], chain["bare"]["seconds"]
        assert ttft["low"] / bare["high"] <= chain["overhead"]["low"]
        assert chain["overhead"]["high"] <= ttft["high"] / bare["low"]
    assert path.with_suffix(".png").exists()
    assert "| LangChain |" in capsys.readouterr().out


def test_the_second_turn_of_a_chat_is_mostly_reused(tmp_path, capsys):
    path = tmp_path / "chat.json"
    arguments = "bench chat --model test --context 512 --rounds 2"
    assert main([*arguments.split(), "--json", str(path)]) == 0
    found = json.loads(path.read_text("utf-8"))
    assert found["reused"] >= 512 // 16 + AROUND
    assert found["positions"] - found["reused"] < 60
    assert found["same_token"]
    assert f"{found['reused']} of them reused" in capsys.readouterr().out
