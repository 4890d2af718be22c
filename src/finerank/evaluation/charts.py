"""Charts as inline SVG: pure functions of numbers, coloured by the page's CSS classes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from finerank.evaluation.significance import Interval

SIDE = 300
LARGEST_DOT = 12.0
STEP_HEIGHT = 100
STEP_WIDTH = 330


def interval_bar(value: Interval, top: float, reference: float | None) -> str:
    """Draw a bar from 0 to the mean with its interval; ``top`` is the value at the right edge."""

    def x(number: float) -> str:
        return f"{max(0.0, min(1.0, number / top if top else 0.0)) * 100:.2f}%"

    marks = [f'<rect class="bar" y="3" height="16" rx="3" width="{x(value.mean)}"/>']
    if reference is not None:
        marks.append(f'<line class="reference" x1="{x(reference)}" x2="{x(reference)}" y1="0" y2="22"/>')
    marks.append(f'<line class="whisker" x1="{x(value.low)}" x2="{x(value.high)}" y1="11" y2="11"/>')
    marks += [f'<line class="whisker" x1="{x(end)}" x2="{x(end)}" y1="7" y2="15"/>' for end in value[1:]]
    return f'<svg class="track" width="100%" height="22" aria-hidden="true">{"".join(marks)}</svg>'


def steps(differences: Sequence[float], label: str) -> str:
    """Draw per-query differences, largest gain first: how many queries won, lost, and by how much."""
    order = sorted(differences, reverse=True)
    bound = max((abs(value) for value in order), default=0.0) or 1.0
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


def trade_off(points: Sequence[tuple[float, Interval, str]], x_label: str, y_label: str) -> str:
    """Draw one dot per pipeline: cost on x, the mean with its interval on y; both axes fit the points."""
    pad, top = 34, 14
    inner = SIDE - pad - top
    right = max((cost for cost, _, _ in points), default=0.0) or 1.0
    low = min((value.low for _, value, _ in points), default=0.0)
    high = max((value.high for _, value, _ in points), default=1.0)
    span = (high - low) or 1.0

    def y(value: float) -> str:
        return f"{top + (high - value) / span * inner:.1f}"

    marks = []
    for cost, value, name in points:
        x = f"{pad + cost / right * inner:.1f}"
        marks.append(
            f'<line class="whisker" x1="{x}" x2="{x}" y1="{y(value.low)}" y2="{y(value.high)}"/>'
            f'<circle class="gain" cx="{x}" cy="{y(value.mean)}" r="4">'
            f"<title>{escape(name)}: {value.mean:.3f} at {cost:.4g}</title></circle>"
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
    """Draw one dot per query: ``against`` on x, ``arm`` on y; above the diagonal is better. Equal dots become one."""
    pad, top = 28, LARGEST_DOT + 2
    inner = SIDE - pad - top
    places: dict[tuple[float, float], list[str]] = {}
    for x, y, text in points:
        places.setdefault((round(x, 3), round(y, 3)), []).append(text)
    dots = []
    for (x, y), texts in places.items():
        kind = "gain" if y > x else "loss" if y < x else "level"
        radius = min(LARGEST_DOT, 2.4 + 0.8 * (len(texts) - 1) ** 0.5)
        title = texts[0] if len(texts) == 1 else f"{len(texts)} queries, e.g. {texts[0]}"
        dots.append(
            f'<circle class="{kind}" cx="{pad + x * inner:.1f}" cy="{top + (1 - y) * inner:.1f}" r="{radius:.1f}">'
            f"<title>{escape(title)} ({x:.3f} → {y:.3f})</title></circle>"
        )
    low, high = top + inner, pad + inner
    return (
        f'<svg class="chart square" viewBox="0 0 {SIDE} {SIDE}" role="img" '
        f'aria-label="{escape(f"{y_label} against {x_label}, per query")}">'
        f'<path class="axis" d="M{pad} {top}V{low}H{high}" fill="none"/>'
        f'<path class="diagonal" d="M{pad} {low}L{high} {top}"/>'
        f'{"".join(dots)}<text x="{pad + inner / 2:.0f}" y="{SIDE - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {top + inner / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
        f'<text x="{pad - 12}" y="{top + 4}" text-anchor="end">1</text>'
        f'<text x="{pad - 12}" y="{low}" text-anchor="end">0</text></svg>'
    )
