"""Feedback holds a stage, moves on, rehearses what got worse, and stops when it is back."""

import json
from collections import Counter
from random import Random

import pytest

from refrag_rag.cli import main
from refrag_rag.training.feedback import FeedbackCurriculum
from refrag_rag.training.lengths import LengthCurriculum

NAN = float("nan")


def build(**settings):
    return FeedbackCurriculum(**settings)


def observe_all(curriculum, loss, accuracy):
    for length in reversed(curriculum.lengths):
        curriculum.observe(length, loss, accuracy)


def advance(curriculum, stage):
    """Master stages until `stage`, counted from one, is reached."""
    while curriculum.summary()["stage"] < stage:
        observe_all(curriculum, 0.5, 1.0)


def test_main_lengths_have_an_even_share_or_more():
    curriculum = build()
    assert curriculum.main == [1]
    advance(curriculum, 5)  # 16, 213, 193, 185, 103 data points
    assert curriculum.main == [2, 4, 8]
    advance(curriculum, 9)
    assert curriculum.main == [8, 16]


def test_a_stage_is_held_until_it_is_mastered_whatever_the_share():
    curriculum = build(accuracy=0.9)
    rng = Random(0)
    for _ in range(50):
        observe_all(curriculum, 1.0, 0.89)
        curriculum.draw(rng, 1.0)
        curriculum.record(0.1, 1.0)  # training figures move nothing
    assert curriculum.summary()["stage"] == 1
    assert curriculum.summary()["held_by"] == [1]
    assert curriculum.weights() == LengthCurriculum().table[0]
    curriculum.observe(1, 1.0, 0.9)
    assert curriculum.summary()["stage"] == 2
    assert curriculum.weights() == LengthCurriculum().table[1]


def test_every_main_length_must_be_mastered_since_the_stage_began():
    curriculum = build()
    advance(curriculum, 5)
    assert curriculum.holding == [2, 4, 8]  # figures of the stage before do not count
    curriculum.observe(2, 0.5, 0.9)
    curriculum.observe(4, 0.5, 0.9)
    assert curriculum.holding == [8]
    curriculum.observe(4, 0.5, 0.5)  # lost again
    curriculum.observe(8, 0.5, 0.9)
    assert curriculum.summary()["held_by"] == [4]
    assert curriculum.summary()["stage"] == 5
    curriculum.observe(4, 0.5, 0.9)
    assert curriculum.summary()["stage"] == 6


def test_the_last_stage_stays():
    curriculum = build()
    advance(curriculum, 9)
    observe_all(curriculum, 0.1, 1.0)
    assert curriculum.summary()["stage"] == 9
    assert curriculum.summary()["held_by"] == []


def test_what_got_worse_is_rehearsed_until_it_is_back():
    curriculum = build(tolerance=0.2, factor=3.0, least=0.1)
    advance(curriculum, 8)
    plain = LengthCurriculum().table[7]  # next to nothing of length 1
    curriculum.observe(1, 0.69, 1.0)
    assert curriculum.weights() == plain  # within the tolerance of its best, 0.5
    curriculum.observe(1, 0.9, 1.0)
    assert curriculum.summary()["rehearsed"] == [1]
    assert curriculum.summary()["held_out_loss"][1] == 0.9
    assert curriculum.weights() == pytest.approx([0.3 * sum(plain), *plain[1:]])
    rng = Random(3)
    drawn = Counter(curriculum.draw(rng, 0.9) for _ in range(3000))
    assert drawn[1] / 3000 == pytest.approx(0.3 / 1.3, abs=0.03)
    curriculum.observe(1, 0.71, 1.0)
    assert curriculum.rehearsed == [1]
    curriculum.observe(1, 0.7, 1.0)
    assert curriculum.rehearsed == []
    assert curriculum.weights() == plain


def test_a_length_with_more_than_the_least_share_gets_the_factor():
    curriculum = build(factor=2.0, least=0.01)
    advance(curriculum, 5)
    plain = LengthCurriculum().table[4]
    curriculum.observe(2, 1.5, 0.4)
    assert curriculum.weights() == pytest.approx([plain[0], 2 * plain[1], *plain[2:]])


def test_the_hardest_length_of_a_stage_is_not_rehearsed():
    curriculum = build()
    curriculum.observe(16, 0.5, 0.1)
    curriculum.observe(16, 2.5, 0.1)
    curriculum.observe(1, 0.5, 0.1)
    curriculum.observe(1, 2.5, 0.1)
    assert curriculum.rehearsed == []


def test_figures_that_were_not_measured_do_not_count():
    curriculum = build()
    curriculum.observe(1, 0.5, 0.5)
    before = json.dumps(curriculum.state())
    curriculum.observe(1, NAN, NAN)
    assert json.dumps(curriculum.state()) == before
    curriculum.record(NAN, NAN)
    assert curriculum.summary()["accuracy"] == {}


def test_a_stopped_run_draws_on_alike():
    def run(curriculum, steps, seed):
        rng = Random(seed)
        drawn = []
        for step in range(steps):
            drawn.append(curriculum.draw(rng, 0.0))
            curriculum.record(1.0, 0.6)
            if step % 5 == 0:
                observe_all(curriculum, rng.uniform(0.3, 0.9), rng.uniform(0.8, 1.0))
        return drawn

    def fresh():
        return FeedbackCurriculum(maximum=32)

    one, two = fresh(), fresh()
    run(one, 40, 0)
    one.observe(1, 5.0, 0.2)
    assert one.stage > 0
    assert 1 in one.rehearsed
    two.restore(json.loads(json.dumps(one.state())))
    assert two.state() == one.state()
    assert two.summary() == one.summary()
    assert run(two, 40, 7) == run(one, 40, 7)
    assert two.state() == one.state()


def test_a_run_looks_at_held_out_text_of_every_length(parts, prepared, tmp_path):
    command = "train reconstruct --curriculum feedback --look-every 2 --steps 2 --log-every 1"
    command += f" --held-out {prepared}/text --data {prepared}/text --out {tmp_path} --k 8"
    command += f" --encoder {parts}/encoder --decoder {parts}/decoder --batch-size 2 --chunks 4"
    assert main(command.split()) == 0
    log = (tmp_path / "reconstruct" / "log.jsonl").read_text("utf-8").splitlines()
    lines = [json.loads(line) for line in log]
    assert [line["stage"] for line in lines] == [1, 1]
    assert [list(line["held_out_loss"]) for line in lines] == [["1", "2", "4"]] * 2
