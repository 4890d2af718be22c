"""The queries of a report, one by one: plots of their differences, and lists that can be searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finerank.evaluation.report import Comparison, Report
from finerank.evaluation.samples import Sample, Shown
from finerank.page.layout import Cell, Section, card, cards, folded, table
from finerank.page.plots import scatter, steps

LABEL = 34
POINT_TEXT = 80
QUERY_TEXT = 300
SNIPPET, SHORTEST = 700, 60
MOST_BYTES = 1_300_000
"""Of all passages' texts in a page: where there are many, each is cut shorter."""
SHOWN_PLOTS, MOST_PLOTS = 3, 9
SHOWN_LISTS = 3


def per_query(report: Report, data: Mapping[str, Any]) -> Section:
    """Return plots of every query's difference, and the queries at both ends."""
    metric = report.headline_metric
    tests = [test for test in report.comparisons if test.metric == metric]
    tests.sort(key=lambda test: (test.arm, test.against) != (report.focus, report.baseline))
    texts = {sample.query_id: sample.text[:POINT_TEXT] for sample in report.samples}
    plots = [_plots(report, test, texts) for test in tests[:MOST_PLOTS]]
    body = cards(plots[:SHOWN_PLOTS], "plots")
    left = len(tests) - MOST_PLOTS
    more = cards(plots[SHOWN_PLOTS:], "plots")
    if more:
        beyond = f"; {left} further comparisons are in the tables only" if left > 0 else ""
        body += folded(f"{len(plots) - SHOWN_PLOTS} more comparisons{beyond}", more)
    lead = (
        f"{metric} of every query: differences sorted, and one dot per query (above the diagonal is better). "
        "Where there are many, squares: the darker, the more queries."
    )
    return Section("Query by query", body + _extremes(report, data), lead, "Queries")


def explorer(report: Report) -> tuple[Section, dict[str, Any] | None]:
    """Return the section that the page's script fills, and the data that it does it with."""
    title = "Results side by side"
    if not report.samples:
        return Section(title, ""), None
    listed, lists = len(report.samples), sum(bool(sample.lists) for sample in report.samples)
    every = f"All {listed:,} queries" if listed == report.query_count else f"{listed:,} of {report.query_count:,}"
    chosen = "" if listed == report.query_count else ": the most improved, the most worsened, and some by chance"
    lead = (
        f"{every}{' queries' if chosen else ''}{chosen}; {lists:,} of them with their result lists (--sample_queries). "
        "✓ marks a relevant passage; ▲ and ▼ its move against the baseline. Click a query, a passage, or an arm."
    )
    body = '<div id="explorer"><noscript>The lists need the script of this page.</noscript></div>'
    return Section(title, body, lead, "Result lists"), _data(report)


def _plots(report: Report, test: Comparison, texts: Mapping[str, str]) -> str:
    a, b = report.arm(test.arm).values[test.metric], report.arm(test.against).values[test.metric]
    points = [(b[query], a[query], texts.get(query, query)) for query in a]
    title = f"{test.arm} against {test.against}"
    lead = f"{test.wins:,} queries better, {test.losses:,} worse, {test.ties:,} equal"
    plots = steps([y - x for x, y, _ in points], title) + scatter(points, _short(test.against), _short(test.arm))
    return card(title, plots, lead=lead)


def _extremes(report: Report, data: Mapping[str, Any]) -> str:
    """Return the queries that gained and lost most, of the best arm; of the others after a click."""
    found = sorted(data.get("extremes", []), key=lambda each: each["arm"] != report.focus)
    shown = ["".join(_ends(each)) for each in found]
    if not shown:
        return ""
    rest = [card(f"{each['arm']} against {each['against']}", inside) for each, inside in zip(found[1:], shown[1:])]
    first = cards(
        [card(f"{found[0]['arm']}: {name}", inside) for name, inside in zip(("gained", "lost"), _ends(found[0]))],
        "even",
    )
    return first + folded("Gained and lost: the other arms", cards(rest, "even"))


def _ends(found: Mapping[str, Any]) -> list[str]:
    return [_end(side, found[side]) for side in ("gained", "lost")]


def _end(side: str, queries: Sequence[Mapping[str, Any]]) -> str:
    if not queries:
        return f'<p class="lead">No query {side}.</p>'
    kind = "better" if side == "gained" else "worse"
    rows = [
        [
            f'<span class="query">{escape(each["query"][:QUERY_TEXT])}</span>',
            Cell(f"{each['before']:.2f} → {each['after']:.2f}", each["after"]),
            Cell(f'<span class="{kind}">{each["after"] - each["before"]:+.3f}</span>', each["after"] - each["before"]),
        ]
        for each in queries
    ]
    return table([side, "", "change"], rows)


def _data(report: Report) -> dict[str, Any]:
    """Return what the script needs; each passage's text stands there once."""
    arms = [arm.name for arm in report.arms]
    texts = {item.passage_id: item.text for sample in report.samples for one in sample.lists.values() for item in one}
    length = _length(list(texts.values()))
    places = {passage: place for place, passage in enumerate(texts)}
    base, focus = arms.index(report.baseline), arms.index(report.focus)
    means = [arm.intervals[report.headline_metric].mean for arm in report.arms]
    others = sorted(set(range(len(arms))) - {base, focus}, key=lambda place: -means[place])
    shown = sorted([*{base, focus}, *others][:SHOWN_LISTS])
    return {
        "arms": arms,
        "base": base,
        "focus": focus,
        "shown": shown,
        "metric": report.headline_metric,
        "without": "Its lists are not in this page: --sample_queries takes in more.",
        "queries": [_query(sample, arms, places) for sample in report.samples],
        "passages": [_cut(text or passage, length) for passage, text in texts.items()],
    }


def _query(sample: Sample, arms: Sequence[str], places: Mapping[str, int]) -> list[Any]:
    lists = [[_item(item, places) for item in sample.lists.get(arm, [])] for arm in arms] if sample.lists else 0
    values = [round(sample.values[arm], 4) for arm in arms]
    return [_cut(sample.text, QUERY_TEXT), sample.relevant, values, lists]


def _item(item: Shown, places: Mapping[str, int]) -> list[Any]:
    return [places[item.passage_id], item.grade, item.moved, _score(item.score)]


def _score(score: float) -> str:
    return f"{score:,.0f}" if abs(score) >= 10_000 else f"{score:.4g}"


def _length(texts: Sequence[str]) -> int:
    """Return how long a passage may be so that all of them fit."""
    length = SNIPPET
    while length > SHORTEST and sum(len(text[:length].encode("utf-8", "replace")) for text in texts) > MOST_BYTES:
        length = max(SHORTEST, length * 3 // 4)
    return length


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _short(name: str) -> str:
    return _cut(name, LABEL)
