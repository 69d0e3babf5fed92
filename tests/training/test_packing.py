"""Steps by positions: filled, and nearly every row once."""

from random import Random

from refrag_rag.training.batches import Row
from refrag_rag.training.packing import STEPS, Packed, cut


def make_row(rng, share):
    """A row of any length; its first token tells the share of the run."""
    length = rng.choice((8, 20, 60, 200, 500))
    length = rng.randint(length, 2 * length)
    ids = (round(1000 * share), *[rng.randrange(100) for _ in range(length - 1)])
    nothing = (False,) * length
    return Row(ids, nothing, (1.0,) * length, nothing, (), ())


def test_steps_are_filled_with_rows_of_like_length():
    source = Packed(make_row, positions=16384)
    steps = [rows for number in range(10) for rows in source.block(Random(number), 0.0)]
    assert len(steps) >= 10 * STEPS
    sizes = [len(rows) * max(row.tokens for row in rows) for rows in steps]
    assert max(sizes) <= 16384
    assert sum(row.tokens for rows in steps for row in rows) / sum(sizes) > 0.9
    assert sum(sizes) / len(sizes) > 0.75 * 16384


def test_nearly_every_row_is_used_once():
    rng = Random(0)
    rows = [make_row(rng, 0.0) for _ in range(300)]
    batches = cut(rows, 2048)
    used = [row for batch in batches for row in batch]
    assert len(used) > 0.8 * len(rows)
    assert len({id(row) for row in used}) == len(used)
    long = [make_row(Random(1), 0.0)]
    assert cut(long, 4) == [long]
