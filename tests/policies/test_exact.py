"""Exact values: what counts as one, what does not, and chunks that cut one."""

import time

import numpy as np
import pytest

from refrag_rag.policies import get_policy
from refrag_rag.policies.exact import exact_characters, exact_values
from tests.policies.test_policies import chunks


@pytest.mark.parametrize(
    "value",
    [
        *("7", "2,310", "1.5e-3", "-4.25", "+3", "\u22125", "25%", "30°", "1/3"),
        *("$2,310.50", "€40", "¥1,000", "10k"),
        *("10:30", "2021-03-05", "05.03.2021", "2021-03-05T10:30:00Z", "1990-1995", "mid-1990s"),
        *("5 March 1912", "March 5, 1912", "Mar. 5", "1st of May 2020", "June 1999", "3rd Sept"),
        *("v1.2.3-beta.1", "3.11rc1", "COVID-19", "F-16", "A4", "INV-2024/007", "§12", "#88"),
        *("550e8400-e29b-41d4-a716-446655440000", "0xDEADBEEF1", "9f86d081884c7d65", "sha256"),
        *("max_len", "MAX_LEN", "ABC-DEF", "00:1a:2b:ff:ee:0c", "2001:db8::ff00:42:8329"),
        *("192.168.0.1:8080", "anna.keld+x@mail.velmora.org", "www.velmora.org/clocks"),
        *("https://velmora.org/a?b=c&d=%20#top", "s3://clocks/keld", "١٩١٢"),
    ],
)
@pytest.mark.parametrize("frame", ["{}", "It says ({}), and more.", "Read {}. Then go", "as “{}”"])
def test_a_value_is_found_whole(value, frame):
    text = frame.format(value)
    assert [text[a:b] for a, b in exact_values(text)] == [value]


@pytest.mark.parametrize(
    "text",
    [
        "Velmora Works makes clocks, well-known and state-of-the-art; he/she may go.",
        "You may march. May Anna? The Mayor was Augustus.",
        "NASA and the WHO. O'Neill's km/h ... ---- ____ # @ : // § $",
        "Größe, naïve, 株式会社は東京に, สวัสดี",
        "",
    ],
)
def test_plain_words_are_no_values(text):
    assert exact_values(text) == []


def test_numbers_in_text_without_spaces_stand_alone():
    text = "株式会社は1912年に東京で設立されました。"
    assert [text[a:b] for a, b in exact_values(text)] == ["1912"]


def test_a_value_is_laid_to_every_chunk_that_holds_a_part_of_it():
    texts = ["Order INV-", "20", "24/007 of", " Anna", "", " on 5 ", "March", " 1912."]
    given = chunks(texts, (0,) * 8)
    assert exact_characters(given).tolist() == [4, 2, 6, 0, 0, 2, 5, 5]
    mask = get_policy("exact").select(given, "", 3)
    assert np.flatnonzero(mask).tolist() == [2, 6, 7]
    assert np.flatnonzero(get_policy("exact").select(given, "", 99)).tolist() == [0, 1, 2, 5, 6, 7]


def test_values_do_not_reach_over_passages():
    assert exact_characters(chunks(["INV-", "2024", "x"], (0, 1, 1))).tolist() == [0, 4, 1]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a",
            "1",
            "-",
            "_",
            "a_",
            "1-",
            "a.",
            "a@",
            "a@a.",
            "www.",
            "http://",
            "a://",
            "a+",
            "May ",
        ),
        *(
            "1 of ",
            "12 ",
            "a:",
            "1:a",
            "::",
            "0:1:2:",
            "%",
            "a-",
            "A-",
            "1,",
            "\n",
            "https://a@",
            "½",
        ),
        *("\u0e01", "株1", "a" * 64 + "@", "." * 70, "ab.cd-"),
    ],
)
def test_no_text_takes_long(unit):
    text = (unit * 100_000)[:100_000]
    started = time.process_time()
    for tail in ("", "!", "@", "\x00 x"):
        exact_values(text + tail)
    assert time.process_time() - started < 4
