"""Spans: what is marked, found, stripped, and what documents cannot do."""

import random

import pytest

from refrag_rag.spans import (
    CLOSE,
    OPEN,
    Span,
    compressible,
    find_spans,
    neutralise,
    split_spans,
    strip_spans,
    wrap,
)

BITS = [
    OPEN,
    CLOSE,
    "[[",
    "]]",
    "[",
    "]",
    "refrag",
    "/refrag",
    "[[refrag score=1]]",
    " ",
    "\n",
    "é",
    "x",
]


def test_wrap_then_find_gives_the_text():
    text = f"before {wrap('Anna was here.', score=0.25)} after"
    (span,) = find_spans(text)
    assert span.text == "Anna was here."
    assert span.score == 0.25
    assert text[: span.start] == "before "
    assert text[span.end :] == " after"


def test_strip_undoes_wrap():
    assert strip_spans(wrap("One. Two.", score=-1.5)) == "One. Two."
    assert compressible("x") == wrap("x")


def test_no_text_can_open_or_close_a_span():
    rng = random.Random(0)
    for _ in range(300):
        evil = "".join(rng.choices(BITS, k=rng.randint(1, 12)))
        assert neutralise(neutralise(evil)) == neutralise(evil)
        assert not find_spans(neutralise(evil)), evil
        wrapped = f"a {wrap(evil)} b"
        if evil.strip():
            (span,) = find_spans(wrapped)
            assert span.text == neutralise(evil)
            assert (wrapped[: span.start], wrapped[span.end :]) == ("a ", " b")
        stripped = strip_spans(evil)
        assert OPEN not in stripped
        assert CLOSE not in stripped


def test_pieces_joined_are_the_text_without_markers():
    rng = random.Random(0)
    for _ in range(100):
        text = "".join(rng.choices([*BITS[:2], "word ", "[x] "], k=10))
        pieces = split_spans(text)
        joined = "".join(piece.text if isinstance(piece, Span) else piece for piece in pieces)
        assert joined == strip_spans(text), text


def test_a_second_opener_restarts_the_span():
    assert [s.text for s in find_spans(f"{OPEN}cut {OPEN}whole{CLOSE}")] == ["whole"]
    assert split_spans(f"{OPEN}cut {OPEN}whole{CLOSE}")[0] == "cut "


def test_an_unclosed_or_orphan_marker_is_plain_text():
    assert split_spans(f"a {OPEN}b") == ["a b"]
    assert split_spans(f"a{CLOSE} b") == ["a b"]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_nothing_to_compress_is_no_span(text):
    assert wrap(text) == text
    assert find_spans(f"{OPEN}{text}{CLOSE}") == []


@pytest.mark.parametrize(
    "hint", [" score=nan", " score=", " score=1e5", " handle=7", " score=1 2", " metadata=-1"]
)
def test_a_bad_hint_is_ignored(hint):
    (span,) = find_spans(f"[[refrag{hint}]]text{CLOSE}")
    assert span.score is None


def test_metadata_is_a_hint_in_characters():
    (span,) = find_spans(wrap("file: [[refrag\n\nAnna.", score=0.5, metadata=16))
    assert (span.score, span.text[span.metadata :]) == (0.5, "Anna.")
    (alone,) = find_spans("[[refrag metadata=3]]text[[/refrag]]")
    assert (alone.score, alone.metadata) == (None, 3)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_score_that_cannot_be_written_is_left_out(score):
    assert wrap("x", score=score) == f"{OPEN}x{CLOSE}"
