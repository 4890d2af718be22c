"""One layout for every page that a verb writes: a file that opens from disk, in light and dark, on paper and a phone.

Whoever builds a page escapes every text with ``escape``; what slipped through could still not run or load anything,
since the page's policy allows its own script only, by digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

MOST_LINKS = 12
MARKS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What JSON inside HTML must not hold as itself."""


class Section(NamedTuple):
    """A titled part of a page; left out if its body is empty.

    Attributes:
        title, lead: plain texts.
        body: HTML.
        short: what the links at the top call it; the title if empty.
    """

    title: str
    body: str
    lead: str = ""
    short: str = ""


class Cell(str):
    """A cell of a sortable table: HTML, and the number to sort by."""

    value: float

    def __new__(cls, html: str, value: float) -> Cell:
        """Return the cell; equal to its HTML."""
        cell = super().__new__(cls, html)
        cell.value = float(value)
        return cell


def page(
    kind: str,
    title: str,
    sections: Sequence[Section],
    *,
    headline: str = "",
    below: str = "",
    chips: Iterable[str] = (),
    data: Mapping[str, Any] | None = None,
) -> str:
    """Return a whole page; equal arguments give equal bytes.

    Args:
        kind: what made it, a plain text above the headline.
        title: of the window; the headline too, if there is no other.
        headline: HTML of the first sentence.
        below: HTML under it.
        chips: plain texts, one small fact each.
        data: for the page's script, as plain JSON values.
    """
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    shown = [part for part in sections if part.body]
    island = "" if data is None else f'<script type="application/json" id="data">{json_text(data)}</script>'
    whole = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>"
        f'<header><p class="kind">{escape(kind)}</p><h1>{headline or escape(title)}</h1>{below}{chip_list(chips)}'
        f"{_links(shown)}</header>\n"
        f"{''.join(_section(number, part) for number, part in enumerate(shown))}</main>{island}"
        f"<script>{script}</script></body></html>\n"
    )
    return whole.encode("utf-8", "replace").decode("utf-8")


def json_text(data: Any) -> str:
    """Return JSON that can stand inside an HTML script element.

    >>> json_text(["</script>"])
    '["\\\\u003c/script\\\\u003e"]'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(mark): escaped for mark, escaped in MARKS.items()})


def chip_list(chips: Iterable[str]) -> str:
    """Return small facts in a row."""
    items = "".join(f"<li>{escape(fact)}</li>" for fact in chips)
    return f'<ul class="chips">{items}</ul>' if items else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table that a click on a head sorts; headers are escaped here, cells are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{escape(kind)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def card(title: str, body: str, *, aside: str = "", lead: str = "") -> str:
    """Return a box with a title; ``aside`` stands at its right, ``lead`` below it, both plain texts."""
    right = f"<span>{escape(aside)}</span>" if aside else ""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<div class="card"><h3>{name(title)}{right}</h3>{said}{body}</div>'


def cards(items: Iterable[str], kind: str = "") -> str:
    """Return boxes side by side, as many as there is room for."""
    inside = "".join(items)
    return f'<div class="cards {escape(kind)}">{inside}</div>' if inside else ""


def halves(*items: str) -> str:
    """Return parts side by side where there is room."""
    return f'<div class="halves">{"".join(f"<div>{item}</div>" for item in items)}</div>'


def folded(title: str, body: str) -> str:
    """Return what is seen after a click on ``title``."""
    return f'<details class="more"><summary>{escape(title)}</summary>{body}</details>' if body else ""


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Return large figures: (figure, what it is, kind: ``better``, ``worse`` or nothing) each, plain texts."""
    shown = "".join(
        f'<div class="tile {escape(kind)}"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for figure, what, kind in items
    )
    return f'<div class="tiles">{shown}</div>' if shown else ""


def name(text: str) -> str:
    """Return a name that moves to the next line as a whole, and breaks only where it is longer than a line."""
    return f'<span class="name">{escape(text)}</span>'


def bullets(items: Iterable[str]) -> str:
    """Return plain sentences as a list."""
    inside = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="notes">{inside}</ul>' if inside else ""


@cache
def _resource(file: str) -> str:
    return (files("finerank.page") / file).read_text(encoding="utf-8")


def _section(number: int, part: Section) -> str:
    lead = f'<p class="lead">{escape(part.lead)}</p>' if part.lead else ""
    return f'<section id="s{number}"><h2>{escape(part.title)}</h2>{lead}{part.body}</section>\n'


def _links(sections: Sequence[Section]) -> str:
    if not 2 < len(sections) <= MOST_LINKS:
        return ""
    links = "".join(
        f'<a href="#s{number}">{escape(part.short or part.title)}</a>' for number, part in enumerate(sections)
    )
    return f'<nav aria-label="Sections">{links}</nav>'


def _cell(cell: str) -> str:
    return f'<td data-v="{cell.value:.6g}">{cell}</td>' if isinstance(cell, Cell) else f"<td>{cell}</td>"
