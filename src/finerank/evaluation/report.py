"""One Report of a comparison: arms, figures with intervals, tests, sample result lists; its text and its JSON.

Buildable from plain Python: ``build_report({"bm25": run, "tuned": run}, qrels, queries, passages, metrics=[…],
baseline="bm25")``; ``report_data`` gives plain JSON values, ``report_text`` a table, ``report_html.render`` a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.runs import Qrels, Run
from finerank.core.seeding import DEFAULT_SEED
from finerank.evaluation.metrics import canonical, evaluate_run
from finerank.evaluation.samples import Sample, Texts, pick
from finerank.evaluation.score_shapes import Shape, shape_of, to_mapping
from finerank.evaluation.significance import (
    Interval,
    aligned,
    bootstrap_intervals,
    holm,
    paired_randomisations,
    smallest_detectable,
)

DEFAULT_METRICS = ("nDCG@10", "MRR@10", "Recall@100")
SIGNIFICANT = 0.05
Values = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ArmResult:
    """One arm's figures.

    Attributes:
        values: metric -> query id -> value.
        intervals: metric -> mean and 95 % bootstrap interval over queries.
        overall: figures that are no mean over queries (F1, AUC of row sets).
        facts: what to show beside the name (seconds, dtype, fusion weight).
        shape: how its scores are spread over relevant passages and over the others.
    """

    name: str
    values: Values
    intervals: dict[str, Interval]
    overall: dict[str, Interval] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    shape: Shape | None = None


@dataclass(frozen=True)
class Comparison:
    """``arm`` minus ``against`` in one metric.

    Attributes:
        p: Holm-corrected over the comparisons in that metric.
        detectable: the smallest difference that so many queries would show in 4 of 5 such comparisons.
    """

    arm: str
    against: str
    metric: str
    difference: Interval
    p: float
    wins: int
    ties: int
    losses: int
    detectable: float = 0.0


@dataclass(frozen=True)
class Report:
    """All that is known about a comparison; ``metrics[0]`` is the headline metric."""

    title: str
    metrics: list[str]
    baseline: str
    arms: list[ArmResult]
    comparisons: list[Comparison]
    query_count: int
    passage_count: int
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def headline_metric(self) -> str:
        return self.metrics[0]

    @property
    def focus(self) -> str:
        """The arm that the sample lists are chosen by: the best one that is not the baseline."""
        return _focus(self.arms, self.baseline, self.headline_metric).name

    def arm(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.name == name)


def build_report(
    arms: Mapping[str, Run],
    qrels: Qrels,
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    baseline: str | None = None,
    comparisons: Sequence[tuple[str, str]] = (),
    title: str = "Evaluation",
    notes: Sequence[str] = (),
    more_values: Mapping[str, Values] | None = None,
    overall: Mapping[str, dict[str, Interval]] | None = None,
    facts: Mapping[str, dict[str, str]] | None = None,
    sample_queries: int = 20,
    depth: int = 10,
    seed: int = DEFAULT_SEED,
) -> Report:
    """Compute everything a report shows.

    Args:
        arms: name -> run, in the order to show.
        queries, passages: id -> text, for the sample lists.
        metrics: the first one is the headline.
        baseline: an arm's name; the first arm if None.
        comparisons: further (arm, against) pairs to test, beside every arm against the baseline.
        more_values: arm -> metric -> query id -> value, computed elsewhere.
        overall: arm -> figures that are no mean over queries.
        sample_queries, depth: how many queries, and how many passages of each list, go into the page side by side.
    """
    if not arms or not qrels:
        raise UsageError(f"nothing to compare: {len(arms)} arms, {len(qrels)} judged queries")
    base = next(iter(arms)) if baseline is None else baseline
    pairs = _pairs(list(arms), base, comparisons)
    names = list(dict.fromkeys(map(canonical, metrics)))
    values = {name: evaluate_run(qrels, run, names) | dict((more_values or {}).get(name, {}))
              for name, run in arms.items()}  # fmt: skip
    intervals = _intervals(values, seed)
    results = [
        ArmResult(
            name, values[name], intervals[name], dict((overall or {}).get(name, {})), dict((facts or {}).get(name, {})),
            shape_of(run, qrels),
        )
        for name, run in arms.items()
    ]  # fmt: skip
    by_name = {arm.name: arm for arm in results}
    shown = list(results[0].values)
    tests = _compare(by_name, pairs, shown, seed)
    headlines = {name: found[names[0]] for name, found in values.items()}
    texts = Texts(arms, headlines, qrels, queries, passages)
    samples = pick(texts, _focus(results, base, names[0]).name, base, sample_queries, depth, seed)
    return Report(title, shown, base, results, tests, len(qrels), len(passages), samples, list(notes))


def headline(report: Report) -> str:
    """Return the result in one sentence, true to its test."""
    metric = report.headline_metric
    best = _best_arm(report.arms, metric)
    mean = best.intervals[metric].mean
    over = f"{report.query_count:,} {'query' if report.query_count == 1 else 'queries'}"
    if len(report.arms) == 1:
        low, high = best.intervals[metric][1:]
        return f"{best.name}: {metric} {mean:.3f} [{low:.3f}, {high:.3f}] on {over}"
    if best.name == report.baseline:
        return f"No arm beats the baseline {best.name}: {metric} {mean:.3f} on {over}"
    test = next(
        item for item in report.comparisons
        if item.metric == metric and item.arm == best.name and item.against == report.baseline
    )  # fmt: skip
    verdict = "" if test.p < SIGNIFICANT else ", not significant"
    change, before = test.difference, mean - test.difference.mean
    return (
        f"{best.name}: {change.mean:+.3f} {metric} [{change.low:+.3f}, {change.high:+.3f}] over {report.baseline} "
        f"({before:.3f} → {mean:.3f}), {p_text(test.p)}{verdict}, {over}"
    )


def report_data(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values, per-query results included (sample lists are the page's)."""
    return {
        "title": report.title,
        "headline": headline(report),
        "num_queries": report.query_count,
        "num_passages": report.passage_count,
        "baseline": report.baseline,
        "metrics": report.metrics,
        "arms": [
            {
                "name": arm.name,
                "metrics": {metric: value._asdict() for metric, value in arm.intervals.items()},
                "overall": {name: value._asdict() for name, value in arm.overall.items()},
                "facts": arm.facts,
            }
            for arm in report.arms
        ],
        "comparisons": [
            {
                "arm": test.arm, "against": test.against, "metric": test.metric,
                "difference": test.difference._asdict(), "p_holm": test.p,
                "wins": test.wins, "ties": test.ties, "losses": test.losses,
                "smallest_detectable": round(test.detectable, 6),
            }
            for test in report.comparisons
        ],
        "notes": report.notes,
        "scores": to_mapping({arm.name: arm.shape for arm in report.arms if arm.shape is not None}),
        "per_query": {arm.name: arm.values for arm in report.arms},
    }  # fmt: skip


def signed(value: Interval) -> str:
    """Write a difference with its interval: ``+0.081 [+0.060, +0.102]``."""
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def p_text(p: float) -> str:
    """Write a p-value; below 0.001 no digits are claimed."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _pairs(arms: list[str], baseline: str, more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    for name in {baseline, *(name for pair in more for name in pair)}:
        if name not in arms:
            raise UsageError(f'no arm is called "{name}"{did_you_mean(name, arms)}', hint=f"arms: {', '.join(arms)}")
    return list(dict.fromkeys([*((arm, baseline) for arm in arms if arm != baseline), *more]))


def _intervals(values: Mapping[str, Values], seed: int) -> dict[str, dict[str, Interval]]:
    """Return arm -> metric -> mean and interval, all of them in one pass."""
    places = [(arm, metric) for arm, found in values.items() for metric in found]
    intervals: dict[str, dict[str, Interval]] = {arm: {} for arm in values}
    samples = [list(values[arm][metric].values()) for arm, metric in places]
    for (arm, metric), interval in zip(places, bootstrap_intervals(samples, seed)):
        intervals[arm][metric] = interval
    return intervals


def _compare(
    arms: Mapping[str, ArmResult], pairs: Sequence[tuple[str, str]], metrics: Sequence[str], seed: int
) -> list[Comparison]:
    """Test every pair in every metric; Holm's correction counts the pairs of one metric."""
    places = [(metric, arm, against) for metric in metrics for arm, against in pairs]
    samples = []
    for metric, arm, against in places:
        queries = list(arms[arm].values[metric])
        samples.append((aligned(arms[arm].values[metric], queries), aligned(arms[against].values[metric], queries)))
    differences = bootstrap_intervals([a - b for a, b in samples], seed)
    p_values = paired_randomisations(samples, seed)
    corrected = [
        p for start in range(0, len(places), len(pairs) or 1) for p in holm(p_values[start : start + len(pairs)])
    ]
    return [
        Comparison(
            arm,
            against,
            metric,
            difference,
            p,
            int((a > b).sum()),
            int((a == b).sum()),
            int((a < b).sum()),
            smallest_detectable(a - b),
        )
        for (metric, arm, against), (a, b), difference, p in zip(places, samples, differences, corrected)
    ]


def _best_arm(arms: Sequence[ArmResult], metric: str) -> ArmResult:
    return max(arms, key=lambda arm: arm.intervals[metric].mean)


def _focus(arms: Sequence[ArmResult], baseline: str, metric: str) -> ArmResult:
    return _best_arm([arm for arm in arms if arm.name != baseline] or list(arms), metric)
