"""HTML files become the text that a reader of the page sees."""

import pytest

from refrag_rag.demo.files import read_folder
from refrag_rag.demo.html import html_text

PAGE = """<!DOCTYPE html><html><head><title>Keld &amp; Sons</title>
<style>p { color: red }</style><script>var x = "<p>no</p>";</script></head>
<body><h1>Clocks</h1><p>They were made
   in <b>Port</b> Belu.</p><ul><li>one</li><li>two</li></ul></body></html>"""


def test_tags_scripts_and_styles_are_no_text():
    assert html_text(PAGE) == "Keld & Sons\nClocks\nThey were made in Port Belu.\none\ntwo"


@pytest.mark.parametrize(
    ("markup", "text"),
    [("", ""), ("</style>x", "x"), ("a < b & c", "a < b & c"), ("<p>one<p>two", "one\ntwo")],
)
def test_broken_markup_is_read_as_browsers_do(markup, text):
    assert html_text(markup) == text


def test_a_folder_s_pages_are_read_so(tmp_path):
    (tmp_path / "page.HTML").write_text(PAGE, "utf-8")
    (tmp_path / "page.md").write_text("<p>Markdown stays.</p>", "utf-8")
    texts = {one.id_: one.text for one in read_folder(tmp_path).documents}
    assert texts["page.HTML"].startswith("Keld & Sons\nClocks")
    assert "<p>" in texts["page.md"]
