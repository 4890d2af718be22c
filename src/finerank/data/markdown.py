"""Markdown to sections: cut at headings, code fences left whole, front matter dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
UNDERLINE = re.compile(r"^ {0,3}(=+|-+)\s*$")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
FRONT = re.compile(r"\A---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
IMAGE = re.compile(r"!\[([^\[\]]*)\]\([^)]{0,2000}\)")
LINK = re.compile(r"\[([^\[\]]+)\](?:\([^)]{0,2000}\)|\[[^\[\]]*\])")
MARKS = re.compile(r"[*_`]+")
JOINT = " › "
LONG = 4000
"""Characters from which a section is cut at blank lines."""


@dataclass(frozen=True)
class Section:
    """A piece of a file: the headings above it, outermost first, and what stands under the last of them."""

    headings: tuple[str, ...]
    text: str


def sections_of(text: str, name: str) -> Iterator[Section]:
    """Yield the sections of a Markdown text that hold more than their heading.

    Args:
        name: the first heading of all where the file has neither a heading of the first rank nor a title.

    >>> [(part.headings, part.text) for part in sections_of("# Guide\\nHello.\\n## Install\\nRun it.", "guide")]
    [(('Guide',), 'Hello.'), (('Guide', 'Install'), 'Run it.')]
    """
    front = FRONT.match(text)
    title = FRONT_TITLE.search(front[1] or "") if front else None
    body = text[front.end() :] if front else text
    blocks = list(_blocks(body.split("\n")))
    first = next((heading for rank, heading, _ in blocks if rank == 1 and heading), None)
    above: list[tuple[int, str]] = [(0, title[1] if title else first or name)]
    for rank, heading, lines in blocks:
        if rank:
            while len(above) > 1 and above[-1][0] >= rank:
                above.pop()
            if heading != above[0][1]:
                above.append((rank, heading))
        for piece in pieces(plain(lines)):
            yield Section(tuple(part for _, part in above if part), piece)


def pieces(text: str, long: int = LONG) -> Iterator[str]:
    """Cut a long text at blank lines (never inside a code fence) into parts of up to ``long`` characters."""
    if len(text) <= long:
        if text.strip():
            yield text.strip()
        return
    part = ""
    for paragraph in _paragraphs(text):
        if part and len(part) + len(paragraph) > long:
            yield part.strip()
            part = ""
        part += paragraph + "\n\n"
    if part.strip():
        yield part.strip()


def plain(lines: list[str]) -> str:
    """Drop comments, images and the addresses of links outside of code fences."""
    found: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in lines:
        mark = FENCE.match(line)
        if fence:
            found.append(line)
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            found += [_unmarked("\n".join(prose)), line]
            prose, fence = [], mark[1]
        else:
            prose.append(line)
    return "\n".join([*found, _unmarked("\n".join(prose))]).strip("\n")


def _unmarked(text: str) -> str:
    """Return a text without comments, and with the words of links and images instead of them."""
    end = text.rfind("-->") + 3  # behind it no comment can end: looking for that from each "<!--" takes long
    text = COMMENT.sub("", text[:end]) + text[end:]
    return LINK.sub(r"\1", IMAGE.sub(r"\1", text))


def _blocks(lines: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (rank, heading, lines below it); rank 0 is what stands above the first heading."""
    rank, heading, below, fence = 0, "", list[str](), ""
    for line in lines:
        mark = FENCE.match(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
            below.append(line)
            continue
        if mark:
            fence = mark[1]
            below.append(line)
            continue
        found, under = HEADING.match(line), UNDERLINE.match(line)
        if found:
            yield rank, heading, below
            rank, heading, below = len(found[1]), _name(found[2]), []
        elif under and below and below[-1].strip() and (len(below) == 1 or not below[-2].strip()):
            above = below.pop()
            yield rank, heading, below
            rank, heading, below = (1 if under[1][0] == "=" else 2), _name(above), []
        else:
            below.append(line)
    yield rank, heading, below


def _name(heading: str) -> str:
    return " ".join(MARKS.sub("", _unmarked(heading)).split())


def _paragraphs(text: str) -> Iterator[str]:
    part: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        if not line.strip() and not fence:
            if part:
                yield "\n".join(part)
            part = []
        else:
            part.append(line)
    if part:
        yield "\n".join(part)
