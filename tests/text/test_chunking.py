"""Chunking: the passage's tokens exactly, characters whole, sentences kept."""

import pytest

from refrag_rag import InputError, RefragConfig
from refrag_rag.text.chunking import Chunker
from refrag_rag.text.tokenization import PlainTokenizer, sentence_ends
from tests.tokenizer_families import FAMILIES

TEXTS = [
    "Velmora Works was founded in 1912. It makes clocks! Does it? Yes.",
    "Naïve café — 東京 🦀🦀🦀🦀 ok",
    "   leading and trailing   \n\n",
    "x",
    "",
    "\n\n\n",
    "🧑‍🚀" * 9,
    "<|end|> is no token here <|bos|>",
]


def chunker(tokenizer, *, k=8, chunking="fixed"):
    config = RefragConfig(
        name="t", k=k, window=k, chunking=chunking, encoder_width=8, decoder_width=8
    )
    return Chunker(PlainTokenizer(tokenizer), config)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("k", [4, 5, 8])
@pytest.mark.parametrize("chunking", ["fixed", "sentence"])
def test_joined_chunks_are_the_passage(tokenizer, text, k, chunking):
    passage = chunker(tokenizer, k=k, chunking=chunking).chunk(text)
    ids, _ = PlainTokenizer(tokenizer).encode(text)
    assert [i for chunk in passage.chunk_ids() for i in chunk] == ids
    assert "".join(passage.chunk_texts()) == (text if ids else "")
    assert all(1 <= length <= k for length in passage.chunk_lengths)


@pytest.mark.parametrize(
    "text", [*TEXTS, "e\u0301te\u0301 de\u0301ja\u0300 vu " * 4, "a  b   c\t\n d"]
)
@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_joined_chunks_are_the_passage_with_tokenizers_of_other_families(family, text, k):
    tokenizer = FAMILIES[family]()
    passage = chunker(tokenizer, k=k).chunk(text)
    ids, _ = PlainTokenizer(tokenizer).encode(text)
    assert [i for chunk in passage.chunk_ids() for i in chunk] == ids
    assert "".join(passage.chunk_texts()) == (text if ids else "")
    assert ids == tokenizer(text, add_special_tokens=False).input_ids or "<|" in text


def test_fixed_chunks_have_k_tokens_but_the_last(tokenizer):
    passage = chunker(tokenizer).chunk(TEXTS[0])
    assert set(passage.chunk_lengths[:-1]) == {8}
    assert len(passage) == -(-len(passage.token_ids) // 8)


def test_a_character_is_never_split(tokenizer):
    for text in TEXTS:
        for chunk in chunker(tokenizer, k=5).chunk(text).chunk_ids():
            assert "\ufffd" not in tokenizer.decode(list(chunk))


def test_sentence_chunks_end_where_sentences_end(tokenizer):
    text = "One two. Three four five six seven eight nine ten eleven twelve thirteen. Fourteen."
    texts = chunker(tokenizer, chunking="sentence").chunk(text).chunk_texts()
    assert texts[0].strip() == "One two."
    assert texts[-1].strip() == "Fourteen."


def test_sentence_ends():
    assert sentence_ends('He said "no." Then left.\nNew line') == [14, 25]
    assert sentence_ends("3.14 is pi") == []


def test_text_never_becomes_a_control_token(tokenizer):
    ids, offsets = PlainTokenizer(tokenizer).encode("a<|end|>b<|system|>")
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert offsets[-1][1] == len("a<|end|>b<|system|>")


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 3},
        {"window": 4},
        {"chunking": "words"},
        {"pooling": "max"},
        {"pooling": "cls", "window": 64},
        {"pooling": "concat"},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    settings = {"name": "t", "k": 8, "window": 8, "encoder_width": 8, "decoder_width": 8}
    with pytest.raises(InputError):
        RefragConfig(**(settings | wrong))
