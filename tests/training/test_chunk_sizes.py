"""Chunk sizes that grow, and those that are drawn."""

from collections import Counter
from random import Random

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.chunk_sizes import ChunkSizes, chunk_sizes


def drawn(sizes, share):
    rng = Random(0)
    return Counter(sizes.draw(rng, share) for _ in range(400))


def test_every_size_has_a_part_of_the_run_in_proportion_to_itself():
    sizes = ChunkSizes((8,), grow=(1, 2, 4, 8), growing=0.5)
    most = [drawn(sizes, 0.5 * part / 15).most_common(1)[0][0] for part in range(15)]
    assert most == [1] + 2 * [2] + 4 * [4] + 8 * [8]
    assert set(drawn(sizes, 0.3)) == {4, 8}
    assert set(drawn(sizes, 0.5)) == {8}


def test_a_size_named_twice_is_drawn_twice_as_often():
    counts = drawn(ChunkSizes((8, 8, 4)), 0.0)
    assert 1.5 < counts[8] / counts[4] < 2.7


def test_one_size_takes_no_random_number():
    rng = Random(1)
    before = rng.getstate()
    assert ChunkSizes((8,)).draw(rng, 0.5) == 8
    assert rng.getstate() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((), (2, 1), 1.0), "grow"),
        (((), (0, 8), 1.0), "grow"),
        (((), (8, 1000), 1.0), "grow"),
        (((3,), (), 1.0), "sizes"),
        (((), (1, 2), 0.0), "growing"),
    ],
)
def test_what_does_not_fit_is_named(model, given, message):
    with pytest.raises(InputError, match=message):
        chunk_sizes(model.config, *given)
