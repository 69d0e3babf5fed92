"""Policies measured on held-out questions: tables, pairs and files."""

import json

import numpy as np
import pytest

from recipes.tiny.evaluation.policies import differences, markdown, measure_on
from refrag_rag import InputError
from refrag_rag.evaluation.questions import Question
from refrag_rag.policies.learned import ExpandLearned
from refrag_rag.policies.network import NetworkShape, PolicyNetwork
from tests.conftest import build_model


@pytest.fixture
def questions():
    """Six questions with three passages each."""
    places = ["Port Belu", "Tarsk", "Orvane", "Selm", "Quorl", "Imbery"]
    passages = [f"Velmora {n} makes clocks in {place}." for n, place in enumerate(places)]
    return [
        Question(
            f"Where does Velmora {n} make clocks?",
            (place,),
            tuple(passages[(n + i) % len(places)] for i in range(3)),
        )
        for n, place in enumerate(places)
    ]


def test_differences_are_paired_and_better_comes_first():
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 300)
    values = {("a", 0.1): hard, ("b", 0.1): hard - 0.1 + rng.normal(0, 0.01, 300)}
    (one,) = differences(values)
    assert (one.policy, one.than) == ("b", "a")
    assert one.mean == pytest.approx(-0.1, abs=0.005)
    assert one.high < -0.09  # far narrower than the spread of the questions


@pytest.mark.slow
def test_every_policy_of_a_model_is_measured(tokenizer, questions, tmp_path):
    model = build_model(tokenizer)
    shape = NetworkShape(chunk_width=model.config.chunk_width, width=16, query=True)
    model.policies["learned-query"] = ExpandLearned(PolicyNetwork(shape))
    target = tmp_path / "results" / "policies.json"
    (text,) = measure_on(model, questions, target, shares=(0.1,))
    report = json.loads(target.read_text("utf-8"))
    assert text == markdown(report)
    assert target.with_suffix(".png").stat().st_size > 1000
    names = {"none", "all", "random", "lexical", "exact", "perplexity", "learned-query"}
    assert {point["policy"] for point in report["points"]} == names
    fixed = {"none", "all"}
    arms = {*fixed, *(f"{name}, p = 0.1" for name in names - fixed)}
    assert {row["arm"] for row in report["answers"]} == arms
    assert all(point["cases"] == 6 for point in report["points"])


def test_only_named_policies_are_measured(tokenizer, questions, tmp_path):
    given = (build_model(tokenizer), questions[:2], tmp_path / "policies.json")
    list(measure_on(*given, shares=(0.1, 0.4), policies=["exact+lexical"]))
    report = json.loads(given[2].read_text("utf-8"))
    assert {point["policy"] for point in report["points"]} == {"none", "all", "exact+lexical"}
    assert len(report["answers"]) == 4
    for name in ("guess", "retrieval", "hybrid"):
        with pytest.raises(InputError, match=name):
            list(measure_on(*given, shares=(0.1,), policies=[name]))


def test_answers_are_written_where_they_are_wanted(tokenizer, questions, tmp_path):
    given = (build_model(tokenizer), questions[:2], tmp_path / "policies.json")
    options = {"shares": (0.1, 0.4), "policies": ["lexical"]}
    list(measure_on(*given, **options, answers=(0.4,)))
    report = json.loads(given[2].read_text("utf-8"))
    assert [row["arm"] for row in report["answers"]] == ["none", "all", "lexical, p = 0.4"]
    assert len(report["points"]) == 4
    with pytest.raises(InputError, match=r"0\.2"):
        list(measure_on(*given, **options, answers=(0.2,)))
