"""Steps by positions: filled, each row once, the same ones when a run goes on."""

from random import Random

import pytest

from refrag_rag.training.batches import Row
from refrag_rag.training.packing import STEPS, Packed, cut


def make_row(rng, share):
    """A row of any length; its first token tells the share of the run."""
    length = rng.choice((8, 20, 60, 200, 500))
    length = rng.randint(length, 2 * length)
    ids = (round(1000 * share), *[rng.randrange(100) for _ in range(length - 1)])
    nothing = (False,) * length
    return Row(ids, nothing, (1.0,) * length, nothing, (), ())


def packed(**options):
    return Packed(make_row, positions=16384, seed=3, **options)


def test_steps_are_filled_with_rows_of_like_length():
    source = packed()
    steps = [source.draw(Random(step), 0.0) for step in range(10 * STEPS)]
    sizes = [len(rows) * max(row.tokens for row in rows) for rows in steps]
    assert max(sizes) <= 16384
    fill = sum(row.tokens for rows in steps for row in rows) / sum(sizes)
    assert fill > 0.9
    assert sum(sizes) / len(sizes) > 0.75 * 16384
    assert source.summary()["fill"] > 0.85


def test_nearly_every_row_is_used_once():
    rng = Random(0)
    rows = [make_row(rng, 0.0) for _ in range(300)]
    batches = cut(rows, 2048)
    used = [row for batch in batches for row in batch]
    assert len(used) > 0.8 * len(rows)
    assert len({id(row) for row in used}) == len(used)
    long = [make_row(Random(1), 0.0)]
    assert cut(long, 4) == [long]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_draws_the_same_rows(workers):
    shares = [step / 100 for step in range(40)]
    whole = packed(workers=workers)
    wanted = [whole.draw(Random(0), share) for share in shares]
    first = packed(workers=workers)
    for share in shares[:13]:
        first.draw(Random(0), share)
    second = packed(workers=workers)
    second.restore(first.state())
    assert [second.draw(Random(0), share) for share in shares[13:]] == wanted[13:]


def test_blocks_see_the_share_at_which_they_were_ordered():
    source = packed()
    seen = [source.draw(Random(0), step / 100)[0].ids[0] for step in range(40)]
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_an_error_of_a_worker_reaches_the_run():
    def broken(rng, share):
        raise OSError("no text left")

    source = Packed(broken, positions=64, seed=0, workers=1)
    with pytest.raises(OSError, match="no text left"):
        source.draw(Random(0), 0.0)
