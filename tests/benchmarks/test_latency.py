"""The engine against the plain decoder, on a shape of two layers."""

import json
import math

import pytest

from benchmarks import latency
from benchmarks.latency import ceiling, kv_bytes, of_ceiling, speed_up
from benchmarks.models import DECODERS, ENCODERS, load
from benchmarks.prompts import AROUND, Passages, prompt_around
from refrag_rag import InputError, Refrag

ASKED = "--model test --contexts 128 300 --k 8 16 --batches 1 2 --tokens 3 --rounds 2"


@pytest.fixture(scope="module")
def shape():
    return load("test", 16)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The report of a small run, and what was asked of the engine by the way."""
    path, asked = tmp_path_factory.mktemp("bench") / "new" / "latency.json", []
    generate = Refrag.generate_batch

    def listen(self, prompts, **settings):
        asked.append((settings["policy"], self.model.config.k, tuple(prompts)))
        return generate(self, prompts, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Refrag, "generate_batch", listen)
        latency.main([*ASKED.split(), "--json", str(path)])
    return json.loads(path.read_text("utf-8")), asked


def test_every_cell_has_every_system_with_its_positions(measured):
    report, _ = measured
    cells = report["cells"]
    assert [(c["context"], c["batch"], c["k"]) for c in cells] == [
        (n, b, k) for n in (128, 300) for b in (1, 2) for k in (8, 16)
    ]
    for cell in cells:
        sizes = [128] if cell["context"] == 128 else [256, 44]
        assert cell["full_positions"] == cell["context"] + AROUND
        assert cell["positions"] == sum(math.ceil(n / cell["k"]) for n in sizes) + AROUND
        for system in ("plain", "cached", "not_cached", "bare", "bare_full"):
            assert cell[system]["runs"] == 2
            assert 0 < cell[system]["seconds"]["low"] <= cell[system]["seconds"]["median"]
        assert cell["cached"]["ttit"]["median"] > 0
    assert report["settings"]["model"] == "test"
    assert report["versions"]["torch"]
    assert report["dtype"] == "float32"


def test_both_sides_get_the_same_prompts(measured):
    _, asked = measured
    by_policy = {"all": set(), "none": set()}
    for policy, _, prompts in asked:
        by_policy[policy].add(prompts)
    assert by_policy["all"] == by_policy["none"]
    assert len(by_policy["all"]) == 4  # two contexts, two batch sizes


def test_the_kv_cache_is_what_the_positions_take(measured, shape):
    report, _ = measured
    for cell in report["cells"]:
        share = cell["kv_bytes"]["ours"] / cell["kv_bytes"]["plain"]
        assert share == pytest.approx(cell["positions"] / cell["full_positions"])
    engine, test = Refrag(shape, policy="none"), DECODERS["test"]
    prompt = prompt_around(engine, Passages(shape).passages(512))
    width = 2 * test.layers * test.kv_heads * test.width // test.heads * 4
    assert kv_bytes(engine, [prompt], "all") == (512 + AROUND) * width


def test_ratios_are_computed_from_the_times():
    times = {
        "plain": {"ttft": {"median": 8.0}}, "cached": {"ttft": {"median": 2.0}},
        "not_cached": {"ttft": {"median": 4.0}}, "bare": {"seconds": {"median": 1.0}},
        "bare_full": {"seconds": {"median": 5.0}}, "overhead": {"median": 1.25},
        "plain_overhead": {"median": 1.0},
    }  # fmt: skip
    assert (speed_up(times), speed_up(times, "not_cached")) == (4.0, 2.0)
    assert (ceiling(times), of_ceiling(times)) == (5.0, 0.8)


def test_tables_give_the_ratios(measured):
    report, _ = measured
    text = latency.markdown(report)
    cell = report["cells"][0]
    assert f"{speed_up(cell):.1f}x | {ceiling(cell):.1f}x | {of_ceiling(cell):.0%} |" in text
    assert text.count("| 128 |") == 8  # two tables, two batch sizes, two k
    assert "peak" not in text  # the device does not count it
    first = {**report, "cells": [dict(cell) for cell in report["cells"]]}
    for one in first["cells"]:
        one["plain"] = one["cached"] = {**one["cached"], "peak_bytes": 3 << 20}
    assert "| peak plain | peak ours |" in latency.markdown(first)
    assert "| 3 MiB | 3 MiB |" in latency.markdown(first)


def test_what_is_not_cached_is_encoded_every_time(shape):
    prompts = [prompt_around(Refrag(shape), Passages(shape).passages(64))]
    for _ in range(2):
        assert latency.not_cached(shape, prompts, 1)["ttft"] > 0
    with pytest.raises(InputError, match="not in the state"):
        latency.answer(Refrag(shape), prompts, "none", 1)


@pytest.mark.parametrize("tokens", [1, 44, 256])
def test_passages_have_exactly_so_many_tokens(shape, tokens):
    assert len(shape.chunker.chunk(Passages(shape).passage(tokens)).token_ids) == tokens


def test_prompts_have_so_many_positions_outside(shape):
    engine = Refrag(shape, policy="none")
    prompt = prompt_around(engine, Passages(shape).passages(512))
    assert engine.compress(prompt).positions == 512 // 16 + AROUND
    with pytest.raises(InputError, match="No question"):
        prompt_around(engine, Passages(shape).passages(64), positions=1)


def test_every_shape_names_an_encoder():
    for shape in DECODERS.values():
        assert shape.encoder in ENCODERS
        assert shape.width % shape.heads == 0


def test_shapes_are_built_in_a_dtype_and_share_a_decoder(shape):
    half = load("test", 8, dtype="bfloat16")
    assert {str(p.dtype) for p in half.decoder.parameters()} == {"torch.bfloat16"}
    assert {str(p.dtype) for p in half.encoder.parameters()} == {"torch.bfloat16"}
    assert load("test", 8, decoder=shape.decoder).decoder is shape.decoder
