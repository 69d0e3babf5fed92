"""The text of HTML files, without tags, scripts and styles."""

import re
from html.parser import HTMLParser
from typing import Any

SUFFIXES = (".html", ".htm", ".xhtml")
_HIDDEN = frozenset({"script", "style", "template", "noscript"})
_BLOCKS = frozenset(
    "address article blockquote br dd div dl dt figcaption footer form h1 h2 h3 h4 h5 h6 header hr "
    "li main nav ol p pre section table td th title tr ul".split()
)


def html_text(markup: str) -> str:
    """What a page says, a block a line; its title comes first, if it has one."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(reader.parts).split("\0"))
    return "\n".join(filter(None, lines))


class _Reader(HTMLParser):
    """Collects text; NUL, which no page shows, stands between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self._hidden += tag in _HIDDEN
        if tag in _BLOCKS:
            self.parts.append("\0")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN and self._hidden:
            self._hidden -= 1
        if tag in _BLOCKS:
            self.parts.append("\0")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data.replace("\0", " "))
