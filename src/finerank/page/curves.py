"""Curves and distributions as inline SVG: pure functions of numbers, coloured by the page's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 340, 186
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 30
MOST_POINTS = 400
DOTS = 40
"""Curves of fewer points show each."""
HUES = 6
"""Colours that curves of one plot take in turn, ``h0`` … in the stylesheet."""

Point = tuple[float, float]
Place = Callable[[float, float], Point]
"""From values to a point of the plot."""
NOTHING = '<p class="lead">Nothing was logged.</p>'


class Series(NamedTuple):
    """One curve of several: its points in rising x, and the ends of their intervals if there are any.

    Attributes:
        dashed: drawn as a dashed line: no model's own figures.
    """

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False


def curve(points: Sequence[Point], label: str, *, base: float | None = None, best: Point | None = None) -> str:
    """Draw a curve over the steps, with a dashed line at ``base`` and a ring around ``best``."""
    shown = thinned([(step, value) for step, value in points if math.isfinite(value)])
    if not shown:
        return NOTHING
    last = max(step for step, _ in shown) or 1.0
    values = [value for _, value in shown] + ([base] if base is not None else [])
    low, high, pad = _fitted(values)

    def at(step: float, value: float) -> tuple[float, float]:
        x = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{edge}" fill="none"/>']
    for value in (low + pad, high - pad):
        marks.append(f'<text x="{LEFT - 5}" y="{at(0, value)[1] + 4}" text-anchor="end">{short(value)}</text>')
    marks += [f'<text x="{LEFT}" y="{HEIGHT - 16}">0</text>',
              f'<text x="{edge}" y="{HEIGHT - 16}" text-anchor="end">step {last:,.0f}</text>']  # fmt: skip
    if base is not None:
        marks.append(f'<line class="reference" x1="{LEFT}" x2="{edge}" y1="{at(0, base)[1]}" y2="{at(0, base)[1]}"/>')
    places = [at(step, value) for step, value in shown]
    marks.append(f'<polyline class="curve" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    if len(places) <= DOTS:
        marks += [f'<circle class="dot" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]
    if best is not None and math.isfinite(best[1]):
        x, y = at(*best)
        marks.append(f'<circle class="best" cx="{x}" cy="{y}" r="6"/>')
    return _svg(marks, label)


def lines(series: Sequence[Series], label: str, x_label: str, *, logarithmic: bool = False, unit: bool = False) -> str:
    """Draw several curves with a legend.

    Args:
        logarithmic: x grows by factors; every x is above 0.
        unit: both axes go from 0 to 1, with the diagonal drawn.
    """
    shown = [one for one in series if one.points]
    if not shown:
        return ""
    ends = [x for one in shown for x, _ in one.points]
    values = [y for one in shown for _, y in one.points] + [end for one in shown for both in one.band for end in both]
    left, right = (0.0, 1.0) if unit else (min(ends), max(ends))
    low, high, pad = (0.0, 1.0, 0.0) if unit else _fitted(values)

    def at(x: float, y: float) -> tuple[float, float]:
        share = math.log(x / left) / math.log(right / left) if logarithmic else (x - left) / (right - left)
        return (
            round(LEFT + share * (WIDTH - LEFT - RIGHT), 1),
            round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 1),
        )

    if right == left:
        left, right = (left / 2, right * 2) if logarithmic else (left - 0.5, right + 0.5)
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{edge}" fill="none"/>']
    if unit:
        marks.append(f'<path class="diagonal" d="M{LEFT} {floor}L{edge} {TOP}"/>')
    for value in (low + pad, high - pad):
        marks.append(f'<text x="{LEFT - 5}" y="{at(left, value)[1] + 4}" text-anchor="end">{short(value)}</text>')
    marks += _ticks(sorted(set(ends)) if logarithmic else [left, right], at)
    marks.append(f'<text x="{(LEFT + edge) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    for place, one in enumerate(shown):
        marks.append(_one(one, place % HUES, at))
    legend = "".join(
        f'<li class="h{place % HUES}{" dashed" if one.dashed else ""}">{escape(one.name)}</li>'
        for place, one in enumerate(shown)
    )
    return f'{_svg(marks, label)}<ul class="legend">{legend}</ul>'


def distributions(low: float, high: float, counts: Sequence[Sequence[float]], names: Sequence[str], label: str) -> str:
    """Draw histograms of equal bins over [low, high] on each other, each scaled to an area of its own.

    Args:
        counts: one list of bins per name, in the order ``gain``, ``loss``: relevant first.
    """
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    shares = [[each / (sum(bins) or 1) for each in bins] for bins in counts]
    most = max((each for bins in shares for each in bins), default=0.0) or 1.0
    kinds = ("gain", "loss", "level")
    marks = []
    for kind, bins in zip(kinds, shares):
        width = (edge - 8) / max(1, len(bins))
        path = f"M8 {floor}"
        for place, share in enumerate(bins):
            y = floor - share / most * (floor - TOP)
            path += f"V{y:.1f}H{8 + (place + 1) * width:.1f}"
        marks.append(f'<path class="area {kind}" d="{path}V{floor}Z"/>')
    marks.append(f'<path class="axis" d="M8 {floor}H{edge}"/>')
    marks += [f'<text x="8" y="{HEIGHT - 16}">{short(low)}</text>',
              f'<text x="{edge}" y="{HEIGHT - 16}" text-anchor="end">{short(high)}</text>']  # fmt: skip
    if low < 0 < high:
        x = 8 + -low / (high - low) * (edge - 8)
        marks.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>')
        if 30 < x < edge - 30:
            marks.append(f'<text x="{x:.1f}" y="{HEIGHT - 16}" text-anchor="middle">0</text>')
    legend = "".join(f'<li class="{kind}">{escape(each)}</li>' for kind, each in zip(kinds, names))
    return f'{_svg(marks, label)}<ul class="legend">{legend}</ul>'


def columns(bars: Sequence[tuple[str, float]], label: str) -> str:
    """Draw one column per (name, count)."""
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    most = max((count for _, count in bars), default=0.0) or 1.0
    width = (edge - 8) / max(1, len(bars))
    every = max(1, math.ceil(len(bars) / 6))
    marks = []
    for place, (named, count) in enumerate(bars):
        height, x = count / most * (floor - TOP), 8 + place * width
        marks.append(
            f'<rect class="bar" x="{x + 0.5:.1f}" y="{floor - height:.1f}" width="{max(width - 1, 0.5):.1f}" '
            f'height="{height:.1f}"><title>{escape(named)}: {count:,.0f}</title></rect>'
        )
        if place % every == 0:
            marks.append(f'<text x="{x:.1f}" y="{HEIGHT - 16}">{escape(named)}</text>')
    marks.append(f'<path class="axis" d="M8 {floor}H{edge}"/>')
    return _svg(marks, label)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most about ``MOST_POINTS``: means of equally many neighbours, the last one as it is."""
    stride = math.ceil(len(points) / MOST_POINTS)
    if stride <= 1:
        return list(points)
    blocks = [points[start : start + stride] for start in range(0, len(points) - 1, stride)]
    means = [(block[-1][0], math.fsum(value for _, value in block) / len(block)) for block in blocks]
    return [*means[:-1], points[-1]] if means[-1][0] == points[-1][0] else [*means, points[-1]]


def short(value: float) -> str:
    """Write a number in few characters.

    >>> short(0.123456), short(2e-5), short(12.3456), short(1000.0)
    ('0.123', '2e-05', '12.3', '1,000')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _one(one: Series, hue: int, at: Place) -> str:
    points = [at(x, y) for x, y in one.points]
    drawn = ""
    if one.band:
        upper = [at(x, high) for (x, _), (_, high) in zip(one.points, one.band)]
        lower = [at(x, low) for (x, _), (low, _) in zip(one.points, one.band)]
        outline = " ".join(f"{x},{y}" for x, y in [*upper, *reversed(lower)])
        drawn += f'<polygon class="band h{hue}" points="{outline}"/>'
    dashed = " dashed" if one.dashed else ""
    drawn += f'<polyline class="curve h{hue}{dashed}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'
    if len(points) <= DOTS and not one.dashed:
        drawn += "".join(
            f'<circle class="dot h{hue}" cx="{x}" cy="{y}" r="3"><title>{escape(one.name)}: {short(value)} at '
            f"{short(where)}</title></circle>"
            for (x, y), (where, value) in zip(points, one.points)
        )
    return drawn


def _ticks(values: Sequence[float], at: Place) -> list[str]:
    marks, last = [], -math.inf
    for value in values:
        x = at(value, 0.0)[0]
        if x - last < 30:
            continue
        last = x
        anchor = "end" if x > WIDTH - RIGHT - 20 else "middle" if x > LEFT + 8 else "start"
        marks.append(f'<text x="{x}" y="{HEIGHT - 16}" text-anchor="{anchor}">{short(value)}</text>')
    return marks


def _fitted(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the ends of an axis that holds ``values``, and the room that it leaves at each end."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return low - pad, high + pad, pad


def _svg(marks: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(marks)}</svg>"
    )
