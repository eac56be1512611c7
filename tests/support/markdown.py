"""The documentation: its code blocks, tables, headings and links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.stack import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
#: How commands begin that are for a machine with Docker, systemd or Kubernetes.
MACHINE = ("cp ", "docker ", "sudo ", "kubectl ", "promtool ", "git ")
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        """Where it is, for the name of a test."""
        return f"{self.page.name}: {self.text.splitlines()[0][:60]}"


def blocks(language: str | None = None) -> list[Block]:
    """All blocks, or those in a language."""
    found = (Block(page, *match) for page in PAGES for match in _FENCE.findall(page.read_text()))
    return [block for block in found if language in (None, block.language)]


def commands() -> list[tuple[Block, str]]:
    """Each line for a shell, with its block."""
    return [(block, line) for block in blocks("sh") for line in block.text.splitlines()]


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in a text, but for heads."""
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_rule = re.fullmatch(r"\|[-| :]+\|", line)
        if line.startswith("|") and not is_rule and not re.fullmatch(r"\|[-| :]+\|", following):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section(page: Path, heading: str) -> str:
    """What stands below a heading, down to the next one of its level or above."""
    text = page.read_text()
    level = heading.split(" ")[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page.name} has no {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``: each heading in small letters, with hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", text_of(page))
