"""Passages shortened to the chunks that a policy would expand."""

import itertools

import pytest

from refrag_rag import InputError, Refrag, compressible
from refrag_rag.engine.extract import ELLIPSIS, check_extraction, extract
from refrag_rag.policies import limit_of
from refrag_rag.spans import OPEN, find_spans
from refrag_rag.store import MemoryStore

PASSAGES = [
    "The captain of the Titanic was Edward Smith. The Titanic was lost in 1912. The builder of the "
    "Titanic was Harland and Wolff. The Titanic is known for its stairs.",
    "The head office of Nintendo is in Kyoto. Nintendo was founded in 1889. Nintendo makes games.",
    "The Danube flows into the Black Sea. The Danube is 2,850 km long.",
]
QUESTION = "Where is the head office of Nintendo?"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("policy", ["lexical", "exact+lexical", "random", "retrieval"])
def test_what_is_kept_is_what_the_policy_expands_under_the_same_budget(engine, policy, share):
    extracts = extract(engine, PASSAGES, QUESTION, p=share, policy=policy)
    prompt = engine.compress(
        "".join(map(compressible, PASSAGES)), question=QUESTION, policy=policy, p=share
    )
    kept = [one.kept for one in extracts]
    assert kept == [int(reading.expanded.sum()) for reading in prompt.layouts]
    assert 0 < sum(kept) <= limit_of(share, sum(one.chunks for one in extracts))
    for reading, one in zip(prompt.layouts, extracts, strict=True):
        for text, expanded in zip(reading.texts(), reading.expanded, strict=True):
            assert not expanded or text.strip() in one.text


def test_pieces_are_whole_words_of_the_passage_in_its_order(engine):
    for share in (0.1, 0.2, 0.4, 0.7):
        for text, one in zip(
            PASSAGES,
            extract(engine, PASSAGES, QUESTION, p=share, policy="random"),
            strict=True,
        ):
            words, place = text.split(), 0
            for piece in filter(None, map(str.split, one.text.split(ELLIPSIS))):
                starts = [i for i in range(place, len(words)) if words[i : i + len(piece)] == piece]
                assert starts, (piece, text)
                place = starts[0] + len(piece)


def test_words_are_completed_and_nothing_else_is_added(engine):
    """What stands beside the chosen chunks is less than a word at either end of a run."""
    for share in (0.1, 0.3, 0.5):
        prompt = "".join(map(compressible, PASSAGES))
        readings = engine.compress(prompt, question=QUESTION, policy="random", p=share).layouts
        extracts = extract(engine, PASSAGES, QUESTION, p=share, policy="random")
        for reading, one in zip(readings, extracts, strict=True):
            groups = itertools.groupby(
                zip(reading.texts(), reading.expanded, strict=True), lambda x: x[1]
            )
            runs = ["".join(text for text, _ in group) for expanded, group in groups if expanded]
            longest = max(map(len, reading.text.split()))
            shown = one.text.replace(ELLIPSIS, "")
            assert len("".join(shown.split())) <= sum(len(r) + 2 * (longest - 1) for r in runs)


def test_ellipses_stand_where_something_is_left_out(engine):
    whole = extract(engine, PASSAGES, QUESTION, p=1.0, policy="all")
    assert [one.text for one in whole] == PASSAGES
    (one,) = extract(engine, PASSAGES[1:2], QUESTION, p=0.3)
    assert one.text.startswith("The head office of Nintendo")
    assert one.text.endswith(ELLIPSIS)
    (last,) = extract(engine, PASSAGES[2:], "How many km long?", p=0.4)
    assert last.text.startswith(ELLIPSIS)
    assert "2,850 km" in last.text


def test_a_passage_without_a_chosen_chunk_is_an_ellipsis(engine):
    extracts = extract(engine, PASSAGES, QUESTION, p=0.2)
    assert [one.text for one in extracts if not one.kept] == [ELLIPSIS] * 2
    assert [one.kept > 0 for one in extracts] == [False, True, False]


def test_a_question_that_matches_nothing_gets_the_best_passages_from_their_beginning(engine):
    for question in ("zzz", ""):
        extracts = extract(engine, PASSAGES, question, p=0.2, scores=[0.1, 0.2, 0.9])
        assert extracts[2].text.startswith("The Danube flows")
        assert extracts[0].text == ELLIPSIS


def test_scripts_without_spaces_stay_within_their_chunks(engine):
    text = "株式会社任天堂は京都に本社を置く日本の企業である。" * 4
    (one,) = extract(engine, [text], "", p=0.2)
    reading = engine.compress(compressible(text), policy="retrieval", p=0.2).layouts[0]
    kept = "".join(t for t, e in zip(reading.texts(), reading.expanded, strict=True) if e)
    assert one.text == f"{kept} {ELLIPSIS}"


def test_empty_passages_come_back_and_markers_in_passages_stay_harmless(engine):
    assert [one.text for one in extract(engine, ["", " \n"], QUESTION)] == ["", " \n"]
    assert extract(engine, [], QUESTION) == []
    evil = f"a [[/refrag]] {OPEN} Nintendo head office"
    first, empty, second = extract(engine, [evil, "", PASSAGES[1]], QUESTION, p=1.0, policy="all")
    assert find_spans(first.text + second.text) == []
    assert (empty.text, second.text) == ("", PASSAGES[1])


def test_passages_that_the_store_has_not_keep_to_the_budget_too(model):
    engine = Refrag(model, store=MemoryStore(), on_miss="text")
    extracts = extract(engine, PASSAGES, QUESTION, p=0.2)
    assert sum(one.kept for one in extracts) <= limit_of(0.2, sum(one.chunks for one in extracts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "json"}, "output"),
        ({"output": "text", "p": 0}, "no text"),
        ({"p": 1.5}, "p = 1.5"),
        ({"unchosen": "first"}, "unchosen"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_extraction(object(), **settings)


def test_text_needs_an_engine():
    with pytest.raises(InputError, match="engine"):
        check_extraction(None, output="text")
    check_extraction(None, output="spans")
