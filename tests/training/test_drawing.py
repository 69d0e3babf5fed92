"""Steps that are drawn ahead: the same rows with workers, and when a run goes on."""

from contextlib import ExitStack, closing
from random import Random

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.drawing import Cutting, Drawing
from refrag_rag.training.packing import Drawn, Packed
from tests.training.test_packing import make_row

CUTTING = Cutting(process=0, processes=1, size=1000)


@pytest.fixture
def drawing():
    """Makes drawings, which are closed behind the test."""
    with ExitStack() as made:

        def make(source, workers=0, cutting=CUTTING):
            drawn = Drawing(source, seed=3, cutting=cutting, workers=workers)
            return made.enter_context(closing(drawn))

        yield make


def packed():
    return Packed(make_row, positions=2048)


def rows_of(drawn, shares, first=0):
    return [drawn.next(first + number, share).rows for number, share in enumerate(shares)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_draws_the_same_rows(drawing, workers):
    shares = [step / 100 for step in range(40)]
    wanted = rows_of(drawing(packed(), workers), shares)
    first = drawing(packed(), workers)
    rows_of(first, shares[:13])
    second = drawing(packed(), workers)
    second.restore(first.state())
    assert rows_of(second, shares[13:], first=13) == wanted[13:]


def test_workers_draw_what_the_run_itself_draws(drawing):
    ours, theirs = (rows_of(drawing(packed(), workers), [0.0] * 40) for workers in (0, 2))
    assert ours == theirs


def test_rows_counted_one_by_one_depend_on_seed_and_step(drawing):
    source = Drawn(make_row, batch_size=3)
    for workers in (0, 2):
        steps = rows_of(drawing(source, workers), [0.25] * 5)
        assert steps == [source.draw(Random(f"3-{step}"), 0.25) for step in range(5)]


def test_blocks_see_the_share_at_which_they_were_ordered(drawing):
    steps = rows_of(drawing(packed()), [step / 100 for step in range(40)])
    seen = [rows[0].ids[0] for rows in steps]
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_processes_share_a_step_and_tell_how_full_it_is(drawing):
    steps = [drawing(packed(), cutting=Cutting(process, 2, 4)).next(0, 0.0) for process in range(2)]
    assert steps[0].rows == steps[1].rows
    assert len(steps[0].parts) == len(steps[1].parts)
    assert steps[0].weight == sum(row.weight for row in steps[0].rows)
    assert all(0 < step.fill <= 1 for step in steps)
    own = [row for step in steps for part in step.parts for row in part]
    assert {row.ids for row in own} == {row.ids for row in steps[0].rows}


def test_what_depends_on_the_steps_before_is_not_drawn_ahead(drawing):
    class Led:
        def draw(self, rng, share):
            return [make_row(rng, share)]

    assert drawing(Led()).next(5, 0.0).rows == [make_row(Random("3-5"), 0.0)]
    with pytest.raises(InputError, match="depends on the steps before"):
        drawing(Led(), workers=1)


def broken(rng, share):
    raise OSError("no text left")


def test_an_error_of_a_worker_reaches_the_run(drawing):
    with pytest.raises(OSError, match="no text left"):
        drawing(Packed(broken, positions=64), workers=1).next(0, 0.0)
