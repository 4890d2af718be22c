"""A training as a page: loss, learning rate and held-out figures over the steps; one file, no script, no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finerank.core.watch_options import sign_of

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #1d2329; --quiet: #66707a; --line: #e3e0d8;
  --accent: #2b6cb0; --alarm: #c05621; --good: #2f855a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1c2126; --ink: #e7eaed; --quiet: #98a3ad;
  --line: #2d343b; --accent: #6cb0f0; --alarm: #ee8f5b; --good: #5fc28d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 32px 20px 64px; }
.kind { margin: 0; color: var(--quiet); font-size: 14px; letter-spacing: .04em; text-transform: uppercase; }
h1 { margin: 6px 0 20px; font-size: clamp(20px, 3vw, 30px); line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 36px 0 12px; font-size: 20px; }
h3 { margin: 0 0 8px; font-size: 15px; display: flex; justify-content: space-between; gap: 12px; }
h3 span { color: var(--quiet); font-weight: 500; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 16px; }
.card, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.scroll { overflow-x: auto; padding: 0; }
.alarm { border-left: 4px solid var(--alarm); margin: 0 0 10px; overflow-wrap: anywhere; }
.fine { border-left: 4px solid var(--good); margin: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 11px; font-variant-numeric: tabular-nums; }
.axis { stroke: var(--line); fill: none; }
.curve { stroke: var(--accent); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
.base { stroke: var(--quiet); stroke-dasharray: 4 4; }
.dot { fill: var(--accent); } .best { fill: none; stroke: var(--good); stroke-width: 2; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 500; } tr:last-child td { border-bottom: 0; }
td:last-child { overflow-wrap: anywhere; }
.note { color: var(--quiet); font-size: 14px; }
"""
WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
MOST_POINTS = 400
DOTS = 40
"""Curves of fewer points show each."""

Point = tuple[float, float]
"""Step and value."""


def training_page(
    title: str, history: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """Return the page; equal arguments give equal bytes, and nothing in it tells the time.

    Args:
        history: the logged figures, as in ``metrics.jsonl``.
        counts: as in the manifest.
        options: that decided the result.
    """
    parts = [_alarms(counts), _figures(counts), _curves(history, counts), _options(options)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<p class="kind">finerank training</p><h1>{escape(title)}</h1>\n'
        f"{''.join(parts)}</main></body></html>\n"
    )


def curve(points: Sequence[Point], label: str, *, base: float | None = None, best: Point | None = None) -> str:
    """Draw a curve over the steps as inline SVG, with a dashed line at ``base`` and a ring around ``best``."""
    shown = _thinned([(step, value) for step, value in points if math.isfinite(value)])
    if not shown:
        return '<p class="note">Nothing was logged.</p>'
    last = max(step for step, _ in shown) or 1.0
    values = [value for _, value in shown] + ([base] if base is not None else [])
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    low, high = low - pad, high + pad

    def at(step: float, value: float) -> tuple[float, float]:
        x = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{edge}"/>']
    for value in (low + pad, high - pad):
        marks.append(f'<text x="{LEFT - 5}" y="{at(0, value)[1] + 4}" text-anchor="end">{_short(value)}</text>')
    marks += [f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>',
              f'<text x="{edge}" y="{HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>']  # fmt: skip
    if base is not None:
        marks.append(f'<line class="base" x1="{LEFT}" x2="{edge}" y1="{at(0, base)[1]}" y2="{at(0, base)[1]}"/>')
    places = [at(step, value) for step, value in shown]
    marks.append(f'<polyline class="curve" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    if len(places) <= DOTS:
        marks += [f'<circle class="dot" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]
    if best is not None:
        x, y = at(*best)
        marks.append(f'<circle class="best" cx="{x}" cy="{y}" r="6"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most about ``MOST_POINTS``: means of equally many neighbours, the last one as it is."""
    stride = math.ceil(len(points) / MOST_POINTS)
    if stride <= 1:
        return list(points)
    blocks = [points[start : start + stride] for start in range(0, len(points) - 1, stride)]
    means = [(block[-1][0], math.fsum(value for _, value in block) / len(block)) for block in blocks]
    return [*means[:-1], points[-1]] if means[-1][0] == points[-1][0] else [*means, points[-1]]


def _alarms(counts: Mapping[str, Any]) -> str:
    tripped = counts.get("tripwires") or []
    if not tripped:
        return '<p class="card fine">No tripwire was set off.</p>\n'
    return "".join(f'<p class="card alarm">{escape(sentence)}</p>\n' for sentence in tripped)


def _figures(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return '<h2>Figures</h2><p class="note">Nothing was measured: training ran without held-out data.</p>\n'
    first, fused = counts.get("first_stage"), counts.get("fused")
    head = ["", "base", "tuned", "change, 95 % interval"]
    head += [f"first stage {first['name']}"] if first else []
    head += [f"fused, weight {fused['weight']:g}"] if fused else []
    rows = []
    for name, value in counts["best"].items():
        change = counts.get("changes", {}).get(name)
        interval = f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})" if change else ""
        cells = [name, _figure(counts["base"].get(name)), _figure(value), interval]
        cells += [_figure(each["figures"].get(name)) for each in (first, fused) if each]
        rows.append(cells)
    lead = f"{counts['rows']:,} rows, {counts['steps']:,} steps; the weights are those of step {counts['best_step']:,}."
    return f'<h2>Figures</h2>\n<p class="note">{escape(lead)}</p>{_table(head, rows)}\n'


def _curves(history: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> str:
    names = [name for name in ("loss", "learning_rate", "grad_norm") if any(name in entry for entry in history)]
    cards = [_card(name, _points(history, name)) for name in names]
    for name in counts["best"]:
        points = _points(history, f"eval_{name}")
        best = next((point for point in points if point[0] == counts["best_step"]), None)
        cards.append(_card(f"held-out {name}", points, counts["base"].get(name), best))
    legend = (
        f'<p class="note">Dashed: the base model. Ring: the weights that were kept. {escape(_directions(counts))}</p>'
        if counts["best"]
        else ""
    )
    return f'<h2>Course</h2>\n{legend}<div class="cards">{"".join(cards)}</div>\n'


def _directions(counts: Mapping[str, Any]) -> str:
    lower = [name for name in counts["best"] if sign_of(name) < 0]
    return f"Higher is better{f', but for {lower[0]}' if lower else ''}."


def _card(name: str, points: Sequence[Point], base: float | None = None, best: Point | None = None) -> str:
    latest = f"<span>{_short(points[-1][1])}</span>" if points else ""
    title = escape(name.replace("_", " "))
    drawn = curve(points, f"{name} over the steps", base=base, best=best)
    return f'<div class="card"><h3>{title}{latest}</h3>{drawn}</div>'


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(float(entry["step"]), float(entry[name])) for entry in history if name in entry]


def _options(options: Mapping[str, Any]) -> str:
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value, default=str)] for name, value in options.items()
    ]
    return f"<h2>Options</h2>\n{_table(['option', 'value'], rows)}\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _short(value: float) -> str:
    """Write a number in few characters.

    >>> _short(0.123456), _short(2e-5), _short(12.3456)
    ('0.1235', '2e-05', '12.35')
    """
    return f"{value:.4g}"
