"""A Report as one HTML file: headline, figures, tests; what asks for more of the data stands in ``report_parts``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from finerank.evaluation.report import (
    SIGNIFICANT,
    ArmResult,
    Comparison,
    Report,
    headline,
    p_text,
    report_data,
    signed,
)
from finerank.evaluation.report_parts import parts
from finerank.evaluation.report_queries import explorer, per_query
from finerank.evaluation.report_text import power_in_words
from finerank.page.layout import Cell, Section, card, cards, folded, name, page, table, tiles
from finerank.page.layout import bullets as bullet_list
from finerank.page.plots import difference_bar, interval_bar, win_bar

MOST_CARDS = 4
KIND = "finerank evaluate"


def render(
    report: Report, more: Iterable[Section] = (), data: Mapping[str, Any] | None = None, kind: str = KIND
) -> str:
    """Return the whole page; equal arguments give equal bytes.

    Args:
        more: further sections, behind the figures.
        data: the whole result, with what is beside the report's own figures; ``report_data`` if None.
        kind: the verb that made it.
    """
    found = report_data(report) if data is None else data
    lists, island = explorer(report)
    sections = [
        _figures(report, found),
        _tests(report, found),
        *more,
        *parts(report, found),
        per_query(report, found),
        lists,
        _notes(report),
    ]
    return page(
        f"{kind} · {report.title}",
        report.title,
        sections,
        headline=_headline(report),
        below=_tiles(report),
        chips=_chips(report),
        data=island,
    )


def verdict(p: float, mean: float) -> str:
    """Return the class of a difference: better, worse, or unclear where the test did not tell."""
    if p >= SIGNIFICANT:
        return "unclear"
    return "better" if mean > 0 else "worse"


def _headline(report: Report) -> str:
    """Return the sentence, its difference in colour."""
    sentence = escape(headline(report))
    test = _best_test(report)
    if test is None:
        return sentence
    change = f"{test.difference.mean:+.3f} {escape(test.metric)}"
    return sentence.replace(change, f'<b class="{verdict(test.p, test.difference.mean)}">{change}</b>', 1)


def _best_test(report: Report) -> Comparison | None:
    """Return the comparison of the best arm with the baseline in the headline metric."""
    return next(
        (
            test
            for test in report.comparisons
            if (test.metric, test.arm, test.against) == (report.headline_metric, report.focus, report.baseline)
        ),
        None,
    )


def _tiles(report: Report) -> str:
    metric, test = report.headline_metric, _best_test(report)
    if test is None:
        mean, low, high = report.arm(report.focus).intervals[metric]
        return tiles([(f"{mean:.3f}", f"{metric} of {report.focus}, 95 % interval {low:.3f} to {high:.3f}", "")])
    change, after = test.difference, report.arm(test.arm).intervals[metric].mean
    kind = verdict(test.p, change.mean)
    told = {"better": "told from chance", "worse": "told from chance", "unclear": "not told from chance"}[kind]
    return tiles(
        [
            (f"{change.mean:+.3f}", f"{metric}, 95 % interval {change.low:+.3f} to {change.high:+.3f}", kind),
            (f"{after - change.mean:.3f} → {after:.3f}", f"{test.against} → {test.arm}", ""),
            (p_text(test.p), f"paired randomisation, {told}", ""),
            (f"{test.wins:,} : {test.losses:,}", f"queries better : worse; {test.ties:,} equal", ""),
        ]
    )


def _chips(report: Report) -> list[str]:
    facts = [f"{report.query_count:,} judged queries"]
    facts += [f"{report.passage_count:,} passages"] if report.passage_count else []
    facts.append(f"{len(report.arms)} {'arm' if len(report.arms) == 1 else 'arms'}")
    return [*facts, f"baseline: {report.baseline}"]


def _figures(report: Report, data: Mapping[str, Any]) -> Section:
    boxes = [_metric_card(report, metric) for metric in report.metrics[:MOST_CARDS]]
    even = "even" if len(boxes) in (2, 4) else ""
    lead = "Mean over queries with its 95 % bootstrap interval; the dashed line is the baseline."
    return Section("Quality", cards(boxes, even) + _all_figures(report, data) + _overall(report) + _beside(data), lead)


def _metric_card(report: Report, metric: str) -> str:
    values = [arm.intervals[metric] for arm in report.arms]
    top = max([value.high for value in values] + [1e-9]) * 1.02
    reference = report.arm(report.baseline).intervals[metric].mean if len(values) > 1 else None
    rows = "".join(
        f'<div class="barrow{" base" if arm.name == report.baseline else ""}">'
        f'<span title="{escape(_facts(arm))}">{escape(arm.name)}</span>'
        f'{interval_bar(value, top, reference)}<span class="value">{value.mean:.3f}</span>'
        f'<span class="range">{value.low:.3f} – {value.high:.3f}</span></div>'
        for arm, value in zip(report.arms, values)
    )
    return card(metric, rows)


def _all_figures(report: Report, data: Mapping[str, Any]) -> str:
    """Return every metric of every arm as a table, with what each arm costs."""
    cost, times = data.get("cost", {}), data.get("times", {})
    heads = ["arm", *report.metrics]
    heads += ["pairs a query"] if cost else []
    heads += ["texts encoded"] if any(each.get("texts") for each in cost.values()) else []
    heads += ["ms a query"] if times else []
    heads += ["seconds to index"] if any(each.get("index_seconds") for each in times.values()) else []
    rows = []
    for arm in report.arms:
        row: list[str] = [name(arm.name), *(_mean(arm.intervals[metric]) for metric in report.metrics)]
        spent, took = cost.get(arm.name, {}), times.get(arm.name, {})
        row += [_number(spent.get("pairs_per_query"), ".4g")] if cost else []
        row += [_number(spent.get("texts"), ",.0f")] if "texts encoded" in heads else []
        row += [_number(took.get("ms_per_query"), ",.1f")] if times else []
        row += [_number(took.get("index_seconds"), ",.1f")] if "seconds to index" in heads else []
        rows.append(row)
    if len(report.metrics) <= MOST_CARDS and not cost:
        return folded("All figures as a table", table(heads, rows))
    return table(heads, rows, "figures")


def _overall(report: Report) -> str:
    names = list(report.arms[0].overall)
    if not names:
        return ""
    rows = [[name(arm.name), *(_mean(arm.overall[each]) for each in names)] for arm in report.arms]
    return table(["over all pairs", *names], rows, "figures")


def _beside(data: Mapping[str, Any]) -> str:
    """Return what stands beside the models of a row set: BM25 and chance."""
    found = data.get("baselines") or {}
    if not found:
        return ""
    metrics = list(next(iter(found.values()))["metrics"])
    rows = [[name(each), *(_mean_of(arm["metrics"][metric]) for metric in metrics)] for each, arm in found.items()]
    return table(["beside", *metrics], rows, "figures")


def _tests(report: Report, data: Mapping[str, Any]) -> Section:
    first = [test for test in report.comparisons if test.metric == report.headline_metric]
    rest = [test for test in report.comparisons if test.metric != report.headline_metric]
    power = power_in_words(data)
    said = f'<p class="lead">{escape(power[0].upper() + power[1:])}.</p>' if power else ""
    more = folded("The other metrics", _test_table(rest))
    return Section("Differences and tests", _test_table(first) + said + more if first else "", short="Tests")


def _test_table(tests: Iterable[Comparison]) -> str:
    shown = list(tests)
    if not shown:
        return ""
    bound = max((abs(end) for test in shown for end in test.difference[1:]), default=1.0)
    rows = [
        [
            f"<b>{name(test.arm)}</b> − {name(test.against)}",
            escape(test.metric),
            Cell(f'<span class="{_verdict(test)}">{signed(test.difference)}</span>', test.difference.mean),
            Cell(f'<div class="plot">{difference_bar(test.difference, bound, _verdict(test))}</div>',
                 test.difference.mean),
            Cell(escape(p_text(test.p)), test.p),
            Cell(f"{win_bar(test.wins, test.ties, test.losses)}<small>{test.wins:,} · {test.ties:,} · {test.losses:,}"
                 "</small>", test.wins - test.losses),
        ]
        for test in shown
    ]  # fmt: skip
    heads = ["difference", "metric", "mean [95 % interval]", "", "p (Holm)", "wins · ties · losses"]
    return table(heads, rows, "tests")


def _verdict(test: Comparison) -> str:
    return verdict(test.p, test.difference.mean)


def _notes(report: Report) -> Section:
    method = [
        "Intervals: percentile bootstrap over queries, 10,000 resamples (pair figures: over rows, 1,000).",
        "Tests: two-sided paired randomisation (sign flips), 10,000 draws, exact up to 12 differing queries; "
        "p-values Holm-corrected over the comparisons in one metric.",
        "A query without results counts 0; equal scores are ordered by passage id, descending.",
    ]
    facts = [_facts(arm) for arm in report.arms if arm.facts]
    return Section("How this was measured", bullet_list([*report.notes, *method, *facts]), short="Method")


def _facts(arm: ArmResult) -> str:
    return ", ".join([arm.name, *(f"{key}: {value}" for key, value in arm.facts.items())])


def _mean(value: Any) -> Cell:
    mean, low, high = value
    return Cell(f"{mean:.3f} <small>[{low:.3f}, {high:.3f}]</small>", mean)


def _mean_of(value: Mapping[str, float]) -> Cell:
    return _mean((value["mean"], value["low"], value["high"]))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else Cell(f"{value:{form}}", value)
