"""What the documents claim about the repository: the files, targets, commands and links they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w./<-])(?:src|docs|tests|tools|benchmarks|\.ci)/[\w./-]+")
ENTRY = re.compile(r"[\w.-]*[./][\w./-]*|Makefile|LICENSE")


@dataclass(frozen=True)
class Document:
    """One Markdown page, its prose and its code apart."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Document:
        return cls(path, path.read_text())

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(language, code) of every fenced block."""
        return [(found.group(2), found.group(3)) for found in FENCE.finditer(self.text)]

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return FENCE.sub("", self.text)

    @property
    def code(self) -> str:
        """Every code span and every block that is not Python, a line each."""
        spans = SPAN.findall(self.prose)
        return "\n".join([*spans, *(code for language, code in self.blocks if language != "python")])

    def links(self) -> list[str]:
        """Targets of links to other files, without the part after #."""
        targets = [target.partition("#")[0] for target in LINK.findall(self.prose)]
        return [t for t in targets if t and not re.match(r"[a-z]+:", t)]

    def files(self) -> list[str]:
        """Paths of the repository that the page names in code; places to be filled in (`<name>`) are left out."""
        found = []
        for line in self.code.splitlines():
            for match in FILE.finditer(line):
                if line[match.end() : match.end() + 1] not in ("<", "*"):
                    found.append(match.group().rstrip("."))
        return found

    def words_after(self, program: str) -> set[str]:
        """The first word after `make` or `penchant` wherever code begins with it; capitals stand for any word."""
        pattern = rf"^\s*(?:\$ )?(?:\.venv/bin/)?{program} +([a-z][a-z-]*)(?![\w/=.])"
        return set(re.findall(pattern, self.code, re.MULTILINE))

    def listed(self) -> Iterator[str]:
        """Every path of the blocks that list a folder of this repository: those that begin with its name, `src/...`."""
        for language, code in self.blocks:
            if language in ("", "text") and re.match(r"(?:src|docs|tests|tools|benchmarks)/", code):
                yield from listing(code)


def listing(code: str) -> Iterator[str]:
    """Paths of a tree drawn by indentation. Names of a line are one space apart; two spaces begin a remark.

    A name that ends in / holds the deeper lines after it, and further names on its own line.
    """
    above: list[tuple[int, str]] = []
    for line in code.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split(" ")
        if not line.strip() or not all(ENTRY.fullmatch(name) for name in names):
            continue
        indent = len(line) - len(line.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        folder = above[-1][1] if above else ""
        for position, name in enumerate(names):
            yield folder + name
            if position == 0 and name.endswith("/"):
                above.append((indent, folder + name))
