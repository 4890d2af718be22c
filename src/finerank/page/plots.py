"""Comparisons as inline SVG: pure functions of numbers, coloured by the page's classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

SIDE = 300
LARGEST_DOT = 12.0
STEP_HEIGHT, STEP_WIDTH = 100, 330
MOST_DOTS = 600
CELLS = 32
"""Squares along each side of a scatter plot of more dots than ``MOST_DOTS``."""
MOST_STEPS = 330
MOST_NAMES, NAME = 8, 20
"""Dots of a plot of so many arms have their names beside them, of so many characters."""

Range = tuple[float, float, float]
"""Mean, low end, high end."""


def interval_bar(value: Range, top: float, reference: float | None) -> str:
    """Draw a bar from 0 to the mean with its interval; ``top`` is the value at the right edge."""

    def x(number: float) -> str:
        return f"{max(0.0, min(1.0, number / top if top else 0.0)) * 100:.2f}%"

    mean, low, high = value
    marks = [f'<rect class="bar" y="3" height="16" rx="3" width="{x(mean)}"/>']
    if reference is not None:
        marks.append(f'<line class="reference" x1="{x(reference)}" x2="{x(reference)}" y1="0" y2="22"/>')
    marks.append(f'<line class="whisker" x1="{x(low)}" x2="{x(high)}" y1="11" y2="11"/>')
    marks += [f'<line class="whisker" x1="{x(end)}" x2="{x(end)}" y1="7" y2="15"/>' for end in (low, high)]
    return f'<svg class="track" width="100%" height="22" aria-hidden="true">{"".join(marks)}</svg>'


def bar(value: float, top: float) -> str:
    """Draw a bar from 0 to ``value``; ``top`` is the value at the right edge."""
    width = max(0.0, min(1.0, value / top if top else 0.0)) * 100
    shape = f'<rect class="bar" y="3" height="12" rx="2" width="{width:.2f}%"/>' if width else ""
    return f'<svg class="track" width="100%" height="18" aria-hidden="true">{shape}</svg>'


def difference_bar(value: Range, bound: float, verdict: str) -> str:
    """Draw a difference with its interval around 0, from ``-bound`` to ``bound``; ``verdict`` is a class."""

    def x(number: float) -> float:
        return round(50 + max(-1.0, min(1.0, number / bound if bound else 0.0)) * 48, 2)

    mean, low, high = value
    return (
        '<svg class="track" width="100%" height="18" aria-hidden="true">'
        '<line class="reference" x1="50%" x2="50%" y1="0" y2="18"/>'
        f'<line class="range {verdict}" x1="{x(low)}%" x2="{x(high)}%" y1="9" y2="9"/>'
        f'<circle class="{verdict}" cx="{x(mean)}%" cy="9" r="4.5"/></svg>'
    )


def win_bar(wins: int, ties: int, losses: int) -> str:
    """Draw the shares of queries that were better, equal and worse."""
    total = max(1, wins + ties + losses)
    parts = (("gain", wins), ("level", ties), ("loss", losses))
    spans = "".join(f'<i class="{kind}" style="width:{count / total * 100:.1f}%"></i>' for kind, count in parts)
    return f'<span class="winbar">{spans}</span>'


def steps(differences: Sequence[float], label: str) -> str:
    """Draw per-query differences, largest gain first: how many queries won, lost, and by how much."""
    order = sorted(differences, reverse=True)
    bound = max((abs(value) for value in order), default=0.0) or 1.0
    if len(order) > MOST_STEPS:
        order = [order[(2 * place + 1) * len(order) // (2 * MOST_STEPS)] for place in range(MOST_STEPS)]
    width = STEP_WIDTH / max(1, len(order))
    middle = STEP_HEIGHT / 2
    up, down = "", ""
    for place, value in enumerate(order):
        height = abs(value) / bound * (middle - 4)
        left, right = place * width, (place + 1) * width
        edge = middle - height if value > 0 else middle + height
        shape = f"M{left:.1f} {middle}V{edge:.1f}H{right:.1f}V{middle}Z"
        if value > 0:
            up += shape
        elif value < 0:
            down += shape
    return (
        f'<svg class="chart" viewBox="0 0 {STEP_WIDTH} {STEP_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<path class="gain" d="{up}"/><path class="loss" d="{down}"/>'
        f'<line class="axis" x1="0" x2="{STEP_WIDTH}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{STEP_WIDTH - 4}" y="14" text-anchor="end">+{bound:.2f}</text>'
        f'<text x="4" y="{STEP_HEIGHT - 4}">−{bound:.2f}</text></svg>'
    )


def trade_off(points: Sequence[tuple[float, Range, str]], x_label: str, y_label: str) -> str:
    """Draw one dot per arm: cost on x, the mean with its interval on y; both axes fit the points."""
    pad, top = 34, 14
    inner = SIDE - pad - top
    right = max((cost for cost, _, _ in points), default=0.0) or 1.0
    low = min((value[1] for _, value, _ in points), default=0.0)
    high = max((value[2] for _, value, _ in points), default=1.0)
    span = (high - low) or 1.0

    def y(value: float) -> str:
        return f"{top + (high - value) / span * inner:.1f}"

    marks = []
    for cost, value, name in points:
        x = f"{pad + cost / right * (inner - 8):.1f}"
        marks.append(
            f'<line class="whisker" x1="{x}" x2="{x}" y1="{y(value[1])}" y2="{y(value[2])}"/>'
            f'<circle class="gain" cx="{x}" cy="{y(value[0])}" r="4">'
            f"<title>{escape(name)}: {value[0]:.3f} at {cost:.4g}</title></circle>"
        )
        if len(points) <= MOST_NAMES:
            before = float(x) > pad + inner * 0.4
            marks.append(
                f'<text x="{float(x) + (-8 if before else 8):.1f}" y="{float(y(value[0])) + 4:.1f}" '
                f'text-anchor="{"end" if before else "start"}">{escape(_shortened(name))}</text>'
            )
    bottom, edge = top + inner, pad + inner
    return (
        f'<svg class="chart square" viewBox="0 0 {SIDE} {SIDE}" role="img" '
        f'aria-label="{escape(f"{y_label} against {x_label}")}">'
        f'<path class="axis" d="M{pad} {top}V{bottom}H{edge}" fill="none"/>{"".join(marks)}'
        f'<text x="{edge}" y="{SIDE - 18}" text-anchor="end">{right:.4g}</text>'
        f'<text x="{pad + inner / 2:.0f}" y="{SIDE - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="2" y="{top + 4}">{high:.2f}</text><text x="2" y="{bottom}">{low:.2f}</text>'
        f'<text transform="translate(12 {top + inner / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text></svg>"
    )


def scatter(points: Sequence[tuple[float, float, str]], x_label: str, y_label: str) -> str:
    """Draw one dot per query: ``against`` on x, ``arm`` on y, both in [0, 1]; above the diagonal is better.

    Equal dots become one. Where there are more than ``MOST_DOTS``, squares take their place, the darker the more
    queries are in them.
    """
    pad, top = 28, LARGEST_DOT + 2
    inner = SIDE - pad - top
    places: dict[tuple[float, float], list[str]] = {}
    for x, y, text in points:
        places.setdefault((round(x, 3), round(y, 3)), []).append(text)
    drawn = _dots(places, pad, top, inner) if len(places) <= MOST_DOTS else _squares(places, pad, top, inner)
    low, high = top + inner, pad + inner
    return (
        f'<svg class="chart square" viewBox="0 0 {SIDE} {SIDE}" role="img" '
        f'aria-label="{escape(f"{y_label} against {x_label}, per query")}">'
        f'<path class="axis" d="M{pad} {top}V{low}H{high}" fill="none"/>'
        f'<path class="diagonal" d="M{pad} {low}L{high} {top}"/>'
        f'{drawn}<text x="{pad + inner / 2:.0f}" y="{SIDE - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {top + inner / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
        f'<text x="{pad - 12}" y="{top + 4}" text-anchor="end">1</text>'
        f'<text x="{pad - 12}" y="{low}" text-anchor="end">0</text></svg>'
    )


def _dots(places: dict[tuple[float, float], list[str]], pad: float, top: float, inner: float) -> str:
    dots = []
    for (x, y), texts in places.items():
        radius = min(LARGEST_DOT, 2.4 + 0.8 * (len(texts) - 1) ** 0.5)
        title = texts[0] if len(texts) == 1 else f"{len(texts):,} queries, e.g. {texts[0]}"
        dots.append(
            f'<circle class="{_kind(x, y)}" cx="{pad + x * inner:.1f}" cy="{top + (1 - y) * inner:.1f}" '
            f'r="{radius:.1f}"><title>{escape(title)} ({x:.3f} → {y:.3f})</title></circle>'
        )
    return "".join(dots)


def _squares(places: dict[tuple[float, float], list[str]], pad: float, top: float, inner: float) -> str:
    counts: dict[tuple[int, int], int] = {}
    for (x, y), texts in places.items():
        cell = min(int(x * CELLS), CELLS - 1), min(int(y * CELLS), CELLS - 1)
        counts[cell] = counts.get(cell, 0) + len(texts)
    most, side = max(counts.values()), inner / CELLS
    return "".join(
        f'<rect class="{_kind(*cell)}" x="{pad + cell[0] * side:.1f}" y="{top + (CELLS - 1 - cell[1]) * side:.1f}" '
        f'width="{side:.1f}" height="{side:.1f}" '
        f'opacity="{0.12 + 0.88 * math.log1p(count) / math.log1p(most):.2f}"><title>{count:,} queries</title></rect>'
        for cell, count in sorted(counts.items())
    )


def _shortened(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _kind(x: float, y: float) -> str:
    return "gain" if y > x else "loss" if y < x else "level"
