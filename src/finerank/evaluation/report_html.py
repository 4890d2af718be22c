"""A Report as one HTML file: no network, light and dark, every text escaped, scripts pinned by their digest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from finerank.evaluation.charts import interval_bar, scatter, steps
from finerank.evaluation.report import (
    SIGNIFICANT,
    ArmResult,
    Comparison,
    Report,
    Sample,
    Shown,
    headline,
    p_text,
    report_data,
    signed,
)
from finerank.evaluation.report_text import power_in_words

SNIPPET = 700
LABEL = 34


def render(report: Report, more: str = "", data: Mapping[str, Any] | None = None) -> str:
    """Return the whole page; ``more`` is HTML of further sections (``section``), ``data`` the results dictionary."""
    style, script = _resource("report.css"), _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # whatever slipped through the escaping could still not run: only this script's digest is allowed
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    sections = [_header(report), _figures(report), more, _overall(report), _tests(report), _per_query(report)]
    sections += [_samples(report), _notes(report)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(sections)}</main><script>{script}</script></body></html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def section(title: str, lead: str, plots: str) -> str:
    """Return a section of plots."""
    return (
        f'<section><h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p>'
        f'<div class="cards plots"><div class="card">{plots}</div></div></section>'
    )


def _resource(name: str) -> str:
    return (files("finerank.evaluation") / "page" / name).read_text(encoding="utf-8")


def _header(report: Report) -> str:
    facts = [
        f"{report.query_count:,} judged queries",
        f"{report.passage_count:,} passages",
        f"{len(report.arms)} {'arm' if len(report.arms) == 1 else 'arms'}",
        f"baseline: {report.baseline}",
    ]
    chips = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        f'<header><p class="title">{escape(report.title)}</p><h1>{escape(headline(report))}</h1>'
        f'<ul class="chips">{chips}</ul></header>'
    )


def _figures(report: Report) -> str:
    cards = "".join(_metric_card(report, metric) for metric in report.metrics)
    even = " even" if len(report.metrics) in (2, 4) else ""
    return (
        f'<section><h2>Quality</h2><p class="lead">Mean over queries with its 95 % bootstrap interval; '
        f'the dashed line is the baseline.</p><div class="cards{even}">{cards}</div></section>'
    )


def _metric_card(report: Report, metric: str) -> str:
    values = [arm.intervals[metric] for arm in report.arms]
    top = max([value.high for value in values] + [1e-9]) * 1.02
    reference = report.arm(report.baseline).intervals[metric].mean if len(values) > 1 else None
    rows = "".join(
        f'<div class="barrow{" base" if arm.name == report.baseline else ""}">'
        f'<span class="name" title="{escape(_facts(arm))}">{escape(arm.name)}</span>'
        f'{interval_bar(value, top, reference)}<span class="value">{value.mean:.3f}</span>'
        f'<span class="range">{value.low:.3f} – {value.high:.3f}</span></div>'
        for arm, value in zip(report.arms, values)
    )
    return f'<div class="card"><h3>{escape(metric)}</h3>{rows}</div>'


def _facts(arm: ArmResult) -> str:
    return ", ".join([arm.name, *(f"{key}: {value}" for key, value in arm.facts.items())])


def _overall(report: Report) -> str:
    names = list(report.arms[0].overall)
    if not names:
        return ""
    rows = [
        [escape(arm.name), *(f"{arm.overall[name].mean:.3f} <small>[{arm.overall[name].low:.3f}, "
                             f"{arm.overall[name].high:.3f}]</small>" for name in names)]
        for arm in report.arms
    ]  # fmt: skip
    return f"<section><h2>Over all pairs</h2>{_table(['arm', *names], rows)}</section>"


def _tests(report: Report) -> str:
    if not report.comparisons:
        return ""
    first = [test for test in report.comparisons if test.metric == report.headline_metric]
    rest = [test for test in report.comparisons if test.metric != report.headline_metric]
    more = f'<details class="more"><summary>The other metrics</summary>{_test_table(rest)}</details>' if rest else ""
    power = power_in_words(report_data(report))
    said = f"<p>{escape(power[0].upper() + power[1:])}.</p>" if power else ""
    return f"<section><h2>Differences and tests</h2>{_test_table(first)}{said}{more}</section>"


def _test_table(tests: Iterable[Comparison]) -> str:
    rows = [
        [
            f"<b>{_arm(test.arm)}</b> − {_arm(test.against)}",
            escape(test.metric),
            f'<span class="{_verdict(test)}">{signed(test.difference)}</span>',
            escape(p_text(test.p)),
            _win_bar(test),
        ]
        for test in tests
    ]
    return _table(["difference", "metric", "mean [95 % interval]", "p (Holm)", "wins · ties · losses"], rows, "tests")


def _verdict(test: Comparison) -> str:
    if test.p >= SIGNIFICANT:
        return "unclear"
    return "better" if test.difference.mean > 0 else "worse"


def _win_bar(test: Comparison) -> str:
    total = max(1, test.wins + test.ties + test.losses)
    parts = (("gain", test.wins), ("level", test.ties), ("loss", test.losses))
    spans = "".join(f'<i class="{kind}" style="width:{count / total * 100:.1f}%"></i>' for kind, count in parts)
    return f'<span class="winbar">{spans}</span><small>{test.wins:,} · {test.ties:,} · {test.losses:,}</small>'


def _per_query(report: Report) -> str:
    metric = report.headline_metric
    texts = {sample.query_id: sample.text for sample in report.samples}
    cards = []
    for test in report.comparisons:
        if test.metric != metric:
            continue
        a, b = report.arm(test.arm).values[metric], report.arm(test.against).values[metric]
        points = [(b[query], a[query], texts.get(query, query)) for query in a]
        name = f"{test.arm} against {test.against}"
        plots = steps([y - x for x, y, _ in points], name) + scatter(points, _short(test.against), _short(test.arm))
        cards.append(
            f'<div class="card"><h3>{_arm(test.arm)} against {_arm(test.against)}</h3>'
            f'<p class="lead">{test.wins:,} queries better, '
            f"{test.losses:,} worse, {test.ties:,} equal</p>{plots}</div>"
        )
    if not cards:
        return ""
    lead = f"{metric} of every query: differences sorted, and one dot per query (above the diagonal is better)."
    return (
        f'<section><h2>Query by query</h2><p class="lead">{escape(lead)}</p>'
        f'<div class="cards plots">{"".join(cards)}</div></section>'
    )


def _samples(report: Report) -> str:
    if not report.samples:
        return ""
    items = "".join(_sample(report, sample, place == 0) for place, sample in enumerate(report.samples))
    return (
        '<section id="samples"><h2>Results side by side</h2><p class="lead">Sample queries: the most improved, the '
        "most worsened, and some by chance. ✓ marks a relevant passage; ▲ and ▼ its move against the baseline.</p>"
        '<input id="search" type="search" placeholder="Search queries and passages" '
        'aria-label="Search queries and passages">'
        f'<p id="count" class="lead" role="status"></p>{items}</section>'
    )


def _sample(report: Report, sample: Sample, is_open: bool) -> str:
    columns = "".join(
        f'<div class="column"><h4>{escape(name)} <span>{sample.values[name]:.3f}</span></h4>'
        f"<ol>{''.join(map(_shown, shown))}</ol></div>"
        for name, shown in sample.lists.items()
    )
    change = sample.values[report.focus] - sample.values[report.baseline]
    kind = "better" if change > 0 else "worse" if change < 0 else "unclear"
    found = f"{sample.relevant} relevant"
    return (
        f'<details class="sample"{" open" if is_open else ""}><summary><span class="query">{escape(sample.text)}</span>'
        f'<span class="meta"><span class="{kind}">{change:+.3f}</span> · {found}</span></summary>'
        f'<div class="columns">{columns}</div></details>'
    )


def _shown(item: Shown) -> str:
    text = item.text[:SNIPPET] + ("…" if len(item.text) > SNIPPET else "")
    mark = '<b class="tick" title="relevant">✓</b>' if item.grade > 0 else ""
    return (
        f'<li class="{"relevant" if item.grade > 0 else "other"}"><span class="rank">{item.rank}</span>{mark}'
        f'{_moved(item.moved)}<span class="passage">{escape(text)}</span></li>'
    )


def _moved(moved: int | None) -> str:
    if moved is None:
        return '<span class="move new">new</span>'
    if moved == 0:
        return ""
    return f'<span class="move {"up" if moved > 0 else "down"}">{"▲" if moved > 0 else "▼"}{abs(moved)}</span>'


def _notes(report: Report) -> str:
    method = [
        "Intervals: percentile bootstrap over queries, 10,000 resamples (pair figures: over rows, 1,000).",
        "Tests: two-sided paired randomisation (sign flips), 10,000 draws, exact up to 12 differing queries; "
        "p-values Holm-corrected over the comparisons in one metric.",
        "A query without results counts 0; equal scores are ordered by passage id, descending.",
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in [*report.notes, *method])
    facts = "".join(f"<li>{escape(_facts(arm))}</li>" for arm in report.arms if arm.facts)
    return f"<section><h2>How this was measured</h2><ul class='notes'>{items}{facts}</ul></section>"


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "figures") -> str:
    """Return a table; headers are escaped here, cells are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _arm(name: str) -> str:
    """Return a name that moves to the next line as a whole, and breaks only where it is longer than a line."""
    return f'<span class="arm">{escape(name)}</span>'


def _short(name: str) -> str:
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
