"""Policies: budgets, order, determinism, and what lexical finds."""

import numpy as np
import pytest

from refrag_rag import InputError
from refrag_rag.policies import POLICIES, Chunks, budget, get_policy
from refrag_rag.policies.lexical import stem

TEXTS = [
    *(
        "Velmora Works",
        " was founded in",
        " 1912 by Anna Keld.",
        " It makes clo",
        "cks in Port Belu.",
    ),
    *("Tarsk Group", " was founded in", " 1855 by Leo Brand.", " It makes sho", "es in New Dor."),
]
QUESTION = "Who founded Velmora Works?"


def chunks(texts=TEXTS, passages=(0,) * 5 + (1,) * 5):
    return Chunks(
        texts=texts,
        passages=np.array(passages, int),
        embeddings=np.zeros((len(texts), 4), np.float16),
        scores={},
        retrieval=[None] * (max(passages, default=-1) + 1),
    )


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_keeps_to_shape_and_budget(name):
    policy = get_policy(name)
    assert policy.name == name
    for allowed in (0, 1, 3, 10):
        mask = policy.select(chunks(), QUESTION, allowed)
        assert mask.shape == (10,)
        assert mask.dtype == bool
        assert name == "all" or mask.sum() <= allowed


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_takes_no_chunks(name):
    assert get_policy(name).select(chunks([], ()), QUESTION, 0).shape == (0,)


def test_none_and_all():
    assert not get_policy("none").select(chunks(), QUESTION, 5).any()
    assert get_policy("all").select(chunks(), QUESTION, 0).all()


def test_random_is_seeded_by_the_content():
    policy = get_policy("random")
    first = policy.select(chunks(), QUESTION, 4)
    assert first.sum() == 4
    np.testing.assert_array_equal(first, policy.select(chunks(), QUESTION, 4))
    others = [policy.select(chunks(), f"{QUESTION} {i}", 4).tolist() for i in range(20)]
    assert len({tuple(mask) for mask in others}) > 10
    chosen = np.mean([policy.select(chunks(), str(i), 5) for i in range(400)], axis=0)
    assert (abs(chosen - 0.5) < 0.12).all()


def test_lexical_chooses_the_passage_that_the_question_names():
    mask = get_policy("lexical").select(chunks(), QUESTION, 3)
    assert mask.tolist() == [True, True, True] + [False] * 7


def test_lexical_finds_words_that_a_chunk_cuts_in_two():
    mask = get_policy("lexical").select(chunks(), "Where are shoes made?", 2)
    assert np.flatnonzero(mask).tolist() == [8, 9]


def test_lexical_prefers_rare_words():
    texts = ["the works", "the works", "the works and granite"]
    mask = get_policy("lexical").select(chunks(texts, (0, 1, 2)), "works of granite", 1)
    assert mask.tolist() == [False, False, True]


def test_lexical_expands_nothing_without_a_match():
    assert not get_policy("lexical").select(chunks(), "Zebra?", 5).any()
    assert not get_policy("lexical").select(chunks(), "who is it", 5).any()
    assert not get_policy("lexical").select(chunks(), "", 5).any()


def test_stems_fold_plurals_and_verb_endings():
    assert stem("Makes") == stem("making") == stem("make")
    assert stem("founded") == stem("founds")


def test_budget_rounds_and_gives_at_least_one():
    assert [budget(p, 10) for p in (0, 0.01, 0.24, 0.26, 1)] == [0, 1, 2, 3, 10]
    assert budget(0.5, 0) == 0
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            budget(p, 3)


def test_an_unknown_policy_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="none, all, random, lexical"):
        get_policy("clever")


def test_a_policy_of_ones_own_is_taken_as_it_is():
    class Own:
        name = "own"

        def select(self, chunks, question, budget):
            return np.zeros(len(chunks.texts), bool)

    own = Own()
    assert get_policy(own) is own
