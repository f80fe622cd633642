"""A page as its tests read it: its words and attributes, and proof that its tags nest."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_VOID = {"meta", "br", "line", "polygon", "polyline"}
_APART = {"td", "th", "tr", "h1", "h2", "p", "div", "li", "dt", "dd"}


class Page(HTMLParser):
    """Collects text and attributes, and fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    @property
    def words(self) -> str:
        """All text but the style sheet's, with single spaces; thin spaces stay."""
        return re.sub(r"[^\S\u202f]+", " ", "".join(self.text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        # A cell's text must not run into the next one's.
        self.text.append(" " if tag in _APART else "")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
