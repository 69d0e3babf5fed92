"""The text of a growing answer: the same as if it were decoded at once, and as cheap a token."""

import pytest

from refrag_rag.generation.answer_text import LATEST, AnswerText

TEXTS = [
    "Edward Smith was the captain.",
    " leading spaces,  two of them\n\nand lines\t.",
    "Emoji 🦊🏴‍☠️👩‍👩‍👧‍👦 flags 🇰🇪 é e\u0301 日本語の文章。",
    "",
]


def read(tokenizer, ids, *, stop=()):
    """The text, and the pieces in which it came."""
    answer = AnswerText(tokenizer, frozenset([2]), stop)
    pieces = []
    for token in ids:
        answer.add(token)
        pieces.append(answer.fresh())
        if answer.stopped:
            break
    pieces.append(answer.fresh(final=True))
    assert "".join(pieces) == answer.text
    return answer, pieces


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    answer, pieces = read(tokenizer, ids)
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=False)
    assert answer.finish_reason == "length"
    assert not any("\ufffd" in piece for piece in pieces)
    with_end, _ = read(tokenizer, [*ids, 2])
    assert (with_end.text, with_end.finish_reason) == (answer.text, "stop")


def test_broken_characters_are_shown_at_last(tokenizer):
    half = tokenizer("日", add_special_tokens=False).input_ids[1:2]
    answer, _ = read(tokenizer, half)
    assert answer.text == tokenizer.decode(half)
    answer, pieces = read(tokenizer, half * 3 * LATEST)
    assert answer.text.count("\ufffd") >= 3 * LATEST - 1
    assert any(pieces[: 2 * LATEST])


@pytest.mark.parametrize("stop", [["captain"], ["in."], ["Smith was", "Edward"], ["nothing"]])
def test_stop_strings_are_never_shown(tokenizer, stop):
    ids = tokenizer(TEXTS[0], add_special_tokens=False).input_ids
    whole = tokenizer.decode(ids)
    answer, pieces = read(tokenizer, ids, stop=stop)
    places = [whole.find(mark) for mark in stop if mark in whole]
    assert answer.text == (whole[: min(places)] if places else whole)
    assert answer.stopped is bool(places)
    assert not any(mark in "".join(pieces) for mark in stop)


def test_a_token_costs_the_same_however_long_the_answer_is(tokenizer, monkeypatch):
    decoded = []
    decode = type(tokenizer).decode

    def counting(self, ids, **options):
        decoded.append(len(ids))
        return decode(self, ids, **options)

    ids = tokenizer("A long story of the fox. " * 100, add_special_tokens=False).input_ids
    monkeypatch.setattr(type(tokenizer), "decode", counting)
    read(tokenizer, ids)
    assert sum(decoded) < 5 * len(ids)
