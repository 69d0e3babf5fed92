"""The paper's Table 8, integer by integer, and what other lengths make of it."""

import json
from itertools import pairwise
from random import Random

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.lengths import (
    STAGES,
    TABLE_8,
    LengthCurriculum,
    stage_at,
    stage_counts,
    table,
)

PRINTED = {
    1: ([1333, 445, 148, 49, 16, 6, 2, 1, 0], 2000),
    2: ([333, 298, 267, 238, 213, 191, 171, 153, 137], 2000),
    4: ([83, 102, 126, 156, 193, 238, 293, 362, 447], 2000),
    8: ([20, 35, 61, 106, 185, 324, 565, 985, 1719], 4000),
    16: ([5, 11, 23, 48, 103, 220, 468, 997, 2125], 4000),
    32: ([1, 3, 7, 19, 50, 133, 353, 939, 2496], 4000),
    64: ([1, 3, 9, 25, 73, 212, 618, 1802, 5259], 8000),
    128: ([1, 3, 9, 25, 73, 212, 618, 1802, 5259], 8000),
    256: ([1, 3, 9, 25, 73, 212, 618, 1802, 5259], 8000),
}


def test_the_papers_table_comes_out_to_the_last_data_point():
    assert stage_counts(256) == {length: row for length, (row, _) in PRINTED.items()}


def test_rows_add_up_to_the_papers_sums_before_rounding():
    for length, row in table(256).items():
        assert row.total == pytest.approx(PRINTED[length][1], abs=0.01)


@pytest.mark.parametrize("maximum", [1, 2, 3, 5, 16, 100, 256, 1024])
def test_any_maximum_has_a_table(maximum):
    rows = table(maximum)
    lengths = list(rows)
    assert lengths[0] == 1
    assert lengths[-1] == maximum
    assert all(a < b <= 2 * a for a, b in pairwise(lengths))
    ratios = [row.ratio for row in rows.values()]
    assert ratios == sorted(ratios)
    for row in rows.values():
        counts = [row.at(stage) for stage in range(STAGES)]
        assert sum(counts) == pytest.approx(row.total)
        for before, after in pairwise(counts):
            assert after == pytest.approx(before * row.ratio)


def test_a_row_keeps_its_place_in_a_shorter_or_longer_table():
    assert table(2) == {1: TABLE_8[1], 2: TABLE_8[256]}
    assert table(16)[4] == TABLE_8[16]  # the middle
    assert table(2**16)[4] == TABLE_8[2]


def test_between_two_rows_sum_and_ratio_are_interpolated():
    row = table(32)[2]  # at 8/5 of the paper's rows: between 2 and 4 chunks, nearer to 4
    part = 8 / 5 - 1
    low, high = TABLE_8[2], TABLE_8[4]
    assert row.ratio == pytest.approx(low.ratio ** (1 - part) * high.ratio**part)
    assert row.total == pytest.approx(low.total ** (1 - part) * high.total**part)


def test_one_length_has_data_in_every_stage():
    assert stage_counts(1) == {1: [222] * STAGES}


def test_weights_follow_the_share_of_the_run():
    lengths = (1, 2, 4, 8, 16)
    for stage in range(STAGES):
        share = (stage + 0.5) / STAGES
        expected = [PRINTED[length][0][stage] for length in lengths]
        assert LengthCurriculum(lengths).weights(share) == pytest.approx(expected, abs=0.5)
    assert (stage_at(0.0), stage_at(1.0), stage_at(1.3)) == (0, 8, 8)
    short, whole = LengthCurriculum((1, 16), maximum=16), LengthCurriculum((1, 256))
    assert short.weights(1.0) == whole.weights(1.0) == whole.table[8]


@pytest.mark.parametrize(
    "call",
    [
        lambda: table(0),
        lambda: LengthCurriculum((3,)),
        lambda: LengthCurriculum((32,), maximum=16),
        lambda: LengthCurriculum(()),
        lambda: LengthCurriculum((1,)).weights(float("nan")),
        lambda: LengthCurriculum((1,)).weights(-0.1),
        lambda: LengthCurriculum((1, 3)),
    ],
)
def test_what_has_no_row_is_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()


def test_lengths_are_drawn_as_often_as_the_table_says():
    curriculum, rng = LengthCurriculum(maximum=32), Random(1)
    drawn = [curriculum.draw(rng, 0.5) for _ in range(4000)]
    weights = curriculum.table[4]
    for length, weight in zip(curriculum.lengths, weights, strict=True):
        assert drawn.count(length) / 4000 == pytest.approx(weight / sum(weights), abs=0.03)


def test_only_what_was_drawn_and_measured_is_logged():
    curriculum = LengthCurriculum()
    assert curriculum.lengths == (1, 2, 4, 8, 16)
    assert curriculum.summary()["accuracy"] == {}
    curriculum.drawn = 4
    curriculum.record(2.0, 0.5)
    curriculum.record(1.0, 0.7)
    curriculum.record(float("nan"), float("nan"))
    assert curriculum.summary()["accuracy"] == {4: 0.51}
    assert curriculum.summary()["target_loss"] == {4: 1.95}


def test_a_stopped_curriculum_draws_on_alike():
    def run(curriculum, steps, seed):
        rng = Random(seed)
        drawn = []
        for step in range(steps):
            drawn.append(curriculum.draw(rng, step / steps))
            curriculum.record(1 / (step + 1), 0.95)
        return drawn

    one = LengthCurriculum(maximum=12)
    run(one, 30, 0)
    two = LengthCurriculum(maximum=12)
    two.restore(json.loads(json.dumps(one.state())))
    assert two.state() == one.state()
    assert run(two, 40, 5) == run(one, 40, 5)
    assert two.summary() == one.summary()
