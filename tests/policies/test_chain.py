"""Chains: what is left goes to the next policy, and the limit is kept."""

import numpy as np
import pytest

from refrag_rag import InputError
from refrag_rag.policies import ExpandChain, get_policy
from tests.policies.test_policies import QUESTION, chunks


def chosen(name, allowed, **arguments):
    return np.flatnonzero(get_policy(name).select(chunks(**arguments), QUESTION, allowed)).tolist()


def test_the_next_policy_spends_what_the_first_leaves():
    assert chosen("exact", 9) == [2, 7]
    assert chosen("lexical", 3) == [0, 1, 2]
    assert chosen("exact+lexical", 2) == [2, 7]
    assert chosen("exact+lexical", 4) == [0, 1, 2, 7]  # 2 is not chosen twice
    assert chosen("lexical+exact", 4) == chosen("lexical", 4)


def test_the_next_policy_sees_the_whole_passage():
    texts = ["no 12", "34-ab", "c of clo", "cks"]
    given = chunks(texts, (0,) * 4)
    mask = get_policy("exact+lexical").select(given, "clocks", 4)
    assert mask.all()  # 'clocks' begins in a chunk that `exact` has taken


def test_all_fills_the_rest_in_reading_order_and_none_leaves_it():
    assert chosen("exact+all", 4) == [0, 1, 2, 7]
    assert chosen("all+exact", 3) == [0, 1, 2]
    assert chosen("none+exact", 3) == chosen("exact", 3)
    assert chosen("exact+none", 3) == chosen("exact", 3)


def test_three_policies_share_one_budget():
    scores = [1, 9, 1, 1, 8, 1, 1, 1, 7, 1]
    assert chosen("exact+perplexity+random", 4, perplexity=scores) == [1, 2, 4, 7]
    assert len(chosen("exact+lexical+random", 10)) == 10


def test_a_policy_that_takes_too_much_is_held_to_the_budget():
    class Greedy:
        name = "greedy"

        def select(self, chunks, question, limit):
            return np.ones(len(chunks.texts), bool)

    chain = ExpandChain([get_policy("exact"), Greedy()])
    assert chain.name == "exact+greedy"
    assert np.flatnonzero(chain.select(chunks(), QUESTION, 3)).tolist() == [0, 2, 7]
    assert not chain.select(chunks(), QUESTION, 0).any()


def test_a_chain_in_a_chain_is_the_chain_of_all():
    nested = ExpandChain([get_policy("exact"), get_policy("lexical+retrieval")])
    flat = get_policy("exact+lexical+retrieval")
    for allowed in range(11):
        np.testing.assert_array_equal(
            nested.select(chunks(), QUESTION, allowed), flat.select(chunks(), QUESTION, allowed)
        )


def test_an_empty_chain_is_refused():
    with pytest.raises(InputError, match="at least one"):
        ExpandChain([])


def test_names_are_no_policies():
    with pytest.raises(InputError, match="expected policies"):
        ExpandChain(["lexical"])


def test_a_policy_takes_no_more_than_its_share():
    chain = get_policy("retrieval:0.5+random")
    assert chain.name == "retrieval:0.5+random"
    given = chunks()
    for allowed in (1, 3, 6, 10):
        mask = chain.select(given, QUESTION, allowed)
        assert mask.sum() == min(allowed, len(mask))
        first = get_policy("retrieval").select(given, QUESTION, -(-allowed // 2))
        assert (mask & first).sum() == first.sum()
    alone = get_policy("random:0.5")
    assert alone.select(given, QUESTION, 4).sum() == 2


@pytest.mark.parametrize("name", ["lexical:", "lexical:half", "lexical:0+random", "lexical:2"])
def test_shares_that_are_none_are_refused(name):
    with pytest.raises(InputError, match="share"):
        get_policy(name)
