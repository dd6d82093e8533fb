"""What every HTML page must be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree


class _Balanced(HTMLParser):
    """Fails on a tag that closes what is not open."""

    VOID = ("meta", "br", "link", "img", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def check_form(page: str) -> None:
    """Every tag is closed where it should be, and every drawing is XML."""
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
