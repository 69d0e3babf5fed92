"""Policies: budgets, order, determinism, and what lexical finds."""

import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refrag_rag import InputError
from refrag_rag.policies import (
    POLICIES,
    Chunks,
    ExpandChain,
    Ranking,
    choose,
    get_policy,
    limit_of,
    needs_of,
)
from refrag_rag.policies.lexical import (
    NEIGHBOUR_SHARE,
    PASSAGE_SHARE,
    SENTENCE_SHARE,
    chunk_scores,
    question_words,
    stem,
)

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


CHAINS = ("exact+lexical", "none+random", "lexical+all", "perplexity+retrieval+exact", "all+none")
PROMPTS = {
    "two passages": (TEXTS, (0,) * 5 + (1,) * 5, QUESTION),
    "no chunks": ([], (), QUESTION),
    "one chunk": (["Velmora Works 1912"], (0,), QUESTION),
    "no question": (TEXTS, (0,) * 5 + (1,) * 5, ""),
    "unicode": (["株式会社は1912", "年に設立 ", "Größe 3", "½ 🦀🦀"], (0, 0, 1, 1), "何年に 🦀?"),
    "words cut in two": (["AB-1", "2", "3-x", "yz li", "ke"], (0,) * 5, "AB-123-xyz liked?"),
    "empty passages between": (["x1", "", "y2"], (1, 1, 3), "y2"),
}


def chunks(texts=TEXTS, passages=(0,) * 5 + (1,) * 5, *, retrieval=None, perplexity=None):
    count = max(passages, default=-1) + 1
    hard = [i * 7 % 5 for i in range(len(texts))] if perplexity is None else perplexity
    return Chunks(
        texts=texts,
        passages=np.array(passages, int),
        embeddings=np.zeros((len(texts), 4), np.float16),
        scores={"perplexity": np.array(hard, np.float32)},
        retrieval=[None] * count if retrieval is None else retrieval,
    )


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", [*POLICIES, *CHAINS])
def test_every_policy_keeps_to_shape_and_budget(name, prompt):
    policy = get_policy(name)
    assert policy.name == name
    texts, passages, question = PROMPTS[prompt]
    for allowed in (0, 1, 3, 10, 99):
        mask = policy.select(chunks(texts, passages), question, allowed)
        assert mask.shape == (len(texts),)
        assert mask.dtype == bool
        assert name == "all" or mask.sum() <= allowed
        again = get_policy(name).select(chunks(texts, passages), question, allowed)
        np.testing.assert_array_equal(mask, again)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses_only_among_what_a_chain_has_left(name):
    half = np.arange(10) % 2 == 0
    given = replace(chunks(), taken=half)
    mask = get_policy(name).select(given, "When was Velmora Works founded?", 3)
    assert name == "all" or not (mask & half).any()
    assert mask.any() == (name != "none")


@pytest.mark.parametrize("name", [*POLICIES, "exact+lexical", "exact+lexical+perplexity"])
def test_no_policy_is_slow_on_a_prompt_of_thousands_of_chunks(name):
    texts = [f" item {i} costs {i * 37 % 911} and was made by Anna" for i in range(5000)]
    many = chunks(
        texts, tuple(i // 2 for i in range(5000)), retrieval=[float(i) for i in range(2500)]
    )
    started = time.process_time()
    assert get_policy(name).select(many, QUESTION + " Anna item 77", 500).shape == (5000,)
    assert time.process_time() - started < 2


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


def test_lexical_finds_words_in_text_that_grows_when_it_is_folded():
    texts = ["İzmir has", " granite", " and marble", " and salt"]
    mask = get_policy("lexical").select(chunks(texts, (0,) * 4), "Where is Granite?", 1)
    assert mask.tolist() == [False, True, False, False]


def test_lexical_prefers_rare_words():
    texts = ["the works", "the works", "the works and granite"]
    mask = get_policy("lexical").select(chunks(texts, (0, 1, 2)), "works of granite", 1)
    assert mask.tolist() == [False, False, True]


def test_lexical_expands_nothing_without_a_match():
    assert not get_policy("lexical").select(chunks(), "Zebra?", 5).any()
    assert not get_policy("lexical").select(chunks(), "who is it", 5).any()
    assert not get_policy("lexical").select(chunks(), "", 5).any()


def test_lexical_expands_the_sentence_that_answers_not_every_one_with_the_name():
    texts = [
        *("Anna Keld: Anna", " Keld is a baker. Anna", " Keld lives in Ost. Anna Keld"),
        *(" was taught by the", " old Tor Vim. Anna", " Keld likes cats."),
    ]
    mask = get_policy("lexical").select(chunks(texts, (0,) * 6), "Who taught Anna Keld?", 3)
    assert np.flatnonzero(mask).tolist() == [2, 3, 4]


def test_lexical_scores_are_those_of_the_formula_written_slowly():
    texts = [*TEXTS, "Anna", " Keld likes", " wor", "ks. And", " clocks"]
    passages = (*(0,) * 5, *(1,) * 5, *(3,) * 5)
    sentences = (  # chunks that hold a part of one, and its text
        ({0, 1, 2}, "Velmora Works was founded in 1912 by Anna Keld"),
        ({3, 4}, "It makes clocks in Port Belu"),
        ({5, 6, 7}, "Tarsk Group was founded in 1855 by Leo Brand"),
        ({8, 9}, "It makes shoes in New Dor"),
        ({10, 11, 12, 13}, "Anna Keld likes works"),
        ({13, 14}, "And clocks"),
    )
    asked = question_words("Which works of Anna Keld makes clocks in Port Belu?")
    held = {  # word stems of every chunk; three words are cut in two
        row: {stem(word) for word in text.replace(",", "").replace(".", "").split()}
        for row, text in enumerate(texts)
    }
    for first, second, word in ((3, 4, "clocks"), (8, 9, "shoes"), (12, 13, "works")):
        held[first] |= {stem(word)}
        held[second] |= {stem(word)}
    passage_words = {p: set().union(*(held[i] for i in held if passages[i] == p)) for p in passages}
    counts = Counter(word for words in passage_words.values() for word in words)
    weight = {word: w * math.log(1 + 4 / (counts[word] or 1)) for word, w in asked.items()}

    def inner(word, passage):
        """How much the word says within the passage, where it stands in some of five chunks."""
        among = sum(word in held[row] for row in held if passages[row] == passage)
        return weight[word] * math.log(1 + 5 / max(among, 1)) / math.log(6)

    own = [sum(inner(w, p) for w in weight if w in held[row]) for row, p in enumerate(passages)]
    expected = []
    for row, passage in enumerate(passages):
        beside = [i for i in (row - 1, row + 1) if 0 <= i < 15 and passages[i] == passage]
        around = max((own[i] for i in beside), default=0)
        said = [{stem(word) for word in text.split()} for rows, text in sentences if row in rows]
        sentence = max(sum(inner(w, passage) for w in weight if w in words) for words in said)
        whole = sum(weight[word] for word in weight if word in passage_words[passage])
        shares = NEIGHBOUR_SHARE * around + SENTENCE_SHARE * sentence + PASSAGE_SHARE * whole
        expected.append(own[row] + shares)
    found = chunk_scores(chunks(texts, passages), asked)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_retrieval_spends_the_budget_on_the_best_passages_first():
    passages = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    given = chunks(TEXTS, passages, retrieval=[0.1, None, 0.9, float("nan"), -2.0])
    order = []
    for allowed in range(1, 11):
        mask = get_policy("retrieval").select(given, QUESTION, allowed)
        order += sorted(set(np.flatnonzero(mask).tolist()) - set(order))
    assert order == [4, 5, 0, 1, 8, 9, 2, 3, 6, 7]


def test_perplexity_takes_the_highest_known_scores():
    known = [2, math.nan, 5, 5, 1, math.nan, 0, 3, math.nan, 4]
    given = chunks(perplexity=known)
    mask = get_policy("perplexity").select(given, QUESTION, 4)
    assert np.flatnonzero(mask).tolist() == [2, 3, 7, 9]
    assert get_policy("perplexity").select(given, QUESTION, 10).sum() == 7
    with pytest.raises(InputError, match="expected 'perplexity'"):
        get_policy("perplexity").select(replace(given, scores={}), QUESTION, 4)


def test_what_policies_need():
    assert needs_of(get_policy("lexical")) == frozenset()
    assert needs_of(get_policy("exact+perplexity")) == {"perplexity"}

    class Wrong:
        name = "wrong"

    for needs in ("perplexity", 5, [1]):
        Wrong.needs = needs
        with pytest.raises(InputError, match="a set of names"):
            needs_of(Wrong())


def test_every_policy_stands_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} >= set(POLICIES)


def test_stems_fold_plurals_and_verb_endings():
    assert stem("Makes") == stem("making") == stem("make")
    assert stem("founded") == stem("founds")


def test_budget_rounds_and_gives_at_least_one():
    assert [limit_of(p, 10) for p in (0, 0.01, 0.24, 0.26, 1)] == [0, 1, 2, 3, 10]
    assert limit_of(0.5, 0) == 0
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            limit_of(p, 3)


def test_an_unknown_policy_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="none, all, random, lexical"):
        get_policy("clever")


def test_policies_of_a_model_are_found_beside_the_others():
    class Learned:
        name = "learned"

        def select(self, chunks, question, limit):
            return np.arange(len(chunks.texts)) < limit

    own = {"learned": Learned()}
    assert get_policy("learned", own) is own["learned"]
    chain = get_policy("exact + learned", own)
    assert chain.name == "exact+learned"
    assert chain.select(chunks(), QUESTION, 4).sum() == 4  # two chunks have numbers
    with pytest.raises(InputError, match=r"perplexity, learned, or several joined"):
        get_policy("exact+clever", own)
    with pytest.raises(InputError, match="No policy ''"):
        get_policy("exact+")


def test_a_policy_of_ones_own_is_taken_as_it_is():
    class Own:
        name = "own"

        def select(self, chunks, question, limit):
            return np.zeros(len(chunks.texts), bool)

    own = Own()
    assert get_policy(own) is own


def test_hybrid_lets_the_retriever_choose_among_passages_with_the_same_words():
    texts = ["Keld Works", " made clocks.", " It grew.", "Keld Ltd", " made clocks.", " It shrank."]
    passages = (0, 0, 0, 1, 1, 1)
    for scale in (1.0, 1e-3, 1e4):  # cosine, BM25 ...: any scale
        given = chunks(texts, passages, retrieval=[0.2 * scale, 0.9 * scale])
        mask = get_policy("hybrid").select(given, "Who made clocks?", 2)
        assert mask.tolist() == [False, False, False, True, True, False]


def test_hybrid_is_lexical_plus_standard_scores():
    given = chunks(retrieval=[0.25, 0.75])
    words = get_policy("lexical").scores(given, QUESTION)
    expected = np.nan_to_num(words) / np.nanmax(words) + 0.4 * np.repeat([-1.0, 1.0], 5)
    np.testing.assert_allclose(get_policy("hybrid").scores(given, QUESTION), expected)


@pytest.mark.parametrize("retrieval", [[None, None], [0.5, 0.5], [math.nan, None], [0.1, None]])
def test_hybrid_without_a_ranking_is_lexical(retrieval):
    given = chunks(retrieval=retrieval)
    np.testing.assert_array_equal(
        get_policy("hybrid").scores(given, QUESTION), get_policy("lexical").scores(given, QUESTION)
    )


def test_hybrid_counts_a_passage_without_a_score_as_the_lowest():
    given = chunks(TEXTS, (0, 0, 1, 1, 2, 2, 3, 3, 3, 3), retrieval=[0.3, None, 0.9, 0.3])
    same = chunks(TEXTS, (0, 0, 1, 1, 2, 2, 3, 3, 3, 3), retrieval=[0.3, 0.3, 0.9, 0.3])
    scores = [get_policy("hybrid").scores(one, QUESTION) for one in (given, same)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("name", ["exact", "lexical", "hybrid", "perplexity", "retrieval"])
def test_policies_that_rank_give_the_scores_that_they_chose_by(name):
    given = chunks(retrieval=[0.1, 0.9])
    choice = choose(get_policy(name), given, QUESTION, 3)
    np.testing.assert_array_equal(choice.expanded, get_policy(name).select(given, QUESTION, 3))
    chosen, others = choice.scores[choice.expanded], choice.scores[~choice.expanded]
    assert chosen.min() >= np.nanmax(others, initial=-np.inf)


@pytest.mark.parametrize("name", ["none", "all", "random", "exact+lexical"])
def test_other_policies_give_no_scores(name):
    assert choose(get_policy(name), chunks(), QUESTION, 3).scores is None


class Custom:
    """A policy that gives what it is told to."""

    name = "custom"

    def __init__(self, given):
        self.given = given

    def select(self, chunks, question, limit):
        return self.given


class CustomRanking(Ranking):
    """The same of scores."""

    name = "custom ranking"

    def __init__(self, given):
        self.given = given

    def scores(self, chunks, question):
        return self.given


@pytest.mark.parametrize(
    "given",
    [
        None,
        [True] * 10,
        np.array([0, 1]),
        np.ones(1, bool),
        np.ones(11, bool),
        np.ones((10, 1), bool),
    ],
    ids=["none", "list", "indices", "short", "long", "two dimensions"],
)
def test_a_mask_that_is_not_one_bool_a_chunk_is_an_input_error(given):
    for policy in (Custom(given), ExpandChain([Custom(given), get_policy("lexical")])):
        with pytest.raises(InputError, match=r"'custom'.*array of 10 bools"):
            choose(policy, chunks(), QUESTION, 3)


@pytest.mark.parametrize(
    "given",
    [
        None,
        [1.0] * 10,
        np.ones(9),
        np.ones(15),
        np.ones((10, 2)),
        np.ones(10, bool),
        np.array(["x"] * 10),
    ],
    ids=["none", "list", "short", "long", "two dimensions", "bools", "texts"],
)
def test_scores_that_are_not_one_number_a_chunk_are_an_input_error(given):
    with pytest.raises(InputError, match=r"'custom ranking'.*array of 10 numbers"):
        choose(CustomRanking(given), chunks(), QUESTION, 3)
