"""The picture of what policies make of a budget."""

import numpy as np
import pytest

from recipes.tiny.evaluation.perplexity import Point
from recipes.tiny.evaluation.picture import COLOURS, plot_points
from refrag_rag.errors import InputError

image = pytest.importorskip("matplotlib.image")


def point(policy, p, value):
    return Point(policy, k=16, p=p, cases=10, value=value, low=value - 0.1, high=value + 0.1)


def test_the_effective_rate_is_the_papers():
    assert point("random", 0.1, 1.0).rate == pytest.approx(6.4)
    assert point("all", 1.0, 1.0).rate == 1
    assert point("none", 0.0, 1.0).rate == 16


def test_every_policy_has_a_curve_of_its_colour(tmp_path):
    path = tmp_path / "policies.png"
    points = [point(name, p, 1 + p) for name in ("lexical", "random") for p in (0.1, 0.4)]
    plot_points(points, path, measure="log-perplexity")
    pixels = (image.imread(path)[..., :3] * 255).round().astype(int)  # (height, width, 3)
    for place, colour in enumerate(COLOURS):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert bool((pixels == np.array(wanted)).all(-1).any()) == (place < 2)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(InputError, match="No points"):
        plot_points([], tmp_path / "a.png", measure="log-perplexity")
    assert not list(tmp_path.iterdir())
