"""Rows as a test: the models' report, BM25 and chance beside it, and how much of it hangs on titles.

A fine-tuned reranker that does worse than counting shared words is not rare (on seed 003's own test file BM25 puts the
best positive first in 84 of 100 rows), and its figures alone don't show it. So both stand beside every model, the
difference to BM25 is tested, and a loss is said aloud.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finerank.core.runs import Run
from finerank.core.seeding import stream_seed
from finerank.data.console import say, table, warn
from finerank.evaluation.arms import ArmOptions, Arms, Loaded
from finerank.evaluation.plan import BM25
from finerank.evaluation.ranking import bm25_rows
from finerank.evaluation.report import SIGNIFICANT, ArmResult, Report, build_report, p_text, signed
from finerank.evaluation.row_arms import add_figures, row_arms
from finerank.evaluation.rows import ACCURACIES, RowSet
from finerank.evaluation.significance import Interval, aligned, bootstrap_intervals, holm, paired_randomisations

RANDOM = "random"
MOST_TITLE = 200
"""Characters of a first line that is still a title."""


@dataclass(frozen=True)
class RowTask:
    """What to make of rows: see ``report.build_report``; ``titles`` tests them without titles, too."""

    metrics: Sequence[str]
    baseline: str | None
    title: str
    seed: int
    sample_queries: int = 0
    titles: bool = False


@dataclass(frozen=True)
class AgainstBm25:
    """A model less BM25 in the headline metric; ``p`` is Holm-corrected over the models."""

    arm: str
    metric: str
    value: float
    difference: Interval
    p: float

    @property
    def verdict(self) -> str:
        if self.p >= SIGNIFICANT:
            return "unclear"
        return "better" if self.difference.mean > 0 else "worse"

    @property
    def sentence(self) -> str:
        told = {
            "better": f"{self.arm} beats BM25, which needs no model",
            "worse": f"{self.arm} is WORSE than BM25, which needs no model",
            "unclear": f"{self.arm} is not shown to be better than BM25, which needs no model",
        }[self.verdict]
        before = self.value - self.difference.mean
        return f"{told}: {self.metric} {before:.3f} → {self.value:.3f}, {signed(self.difference)}, {p_text(self.p)}"

    def to_mapping(self) -> dict[str, Any]:
        return {
            "arm": self.arm, "metric": self.metric, "difference": self.difference._asdict(), "p_holm": self.p,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Tested:
    """A report on rows and what stands beside it; ``stripped`` is the same test without titles."""

    report: Report
    arms: Arms
    beside: dict[str, ArmResult]
    verdicts: list[AgainstBm25]
    row_set: RowSet
    stripped: Tested | None = None
    runs: dict[str, Run] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return what a result has beside its report: baselines, verdicts, figures without titles."""
        found: dict[str, Any] = {
            "num_pairs": len(self.row_set.pairs()),
            "baselines": {name: _figures(result) for name, result in self.beside.items()},
            "against_bm25": [verdict.to_mapping() for verdict in self.verdicts],
        }
        if self.stripped is not None:
            arms = {arm.name: _figures(arm) for arm in self.stripped.report.arms}
            found["without_titles"] = {"arms": arms, **self.stripped.data()}
        return found


def judge_rows(models: Sequence[Loaded], row_set: RowSet, options: ArmOptions, task: RowTask) -> Tested:
    """Test models on rows, and say aloud how they stand to BM25."""
    found = _tested(models, row_set, options, task)
    for told in _nothing_to_order(row_set):
        warn(told)
        found.report.notes.append(f"{told}.")
    _speak(found)
    if not task.titles:
        return found
    bare, cut = without_titles(row_set)
    share = f"{cut:,} of {len(row_set.passages):,} passages begin with a title line"
    say(f"{share}; without it:")
    stripped = _tested(models, bare, options, task)
    _speak(stripped)
    fallen = "; ".join(
        f"{arm.name} {found.report.arm(arm.name).intervals[metric].mean:.3f} → {arm.intervals[metric].mean:.3f}"
        for metric in [stripped.report.headline_metric]
        for arm in stripped.report.arms
    )
    found.report.notes.append(f"{share}. {stripped.report.headline_metric} without it: {fallen}.")
    return Tested(found.report, found.arms, found.beside, found.verdicts, row_set, stripped, found.runs)


def _nothing_to_order(row_set: RowSet) -> list[str]:
    """Say how many rows every model does best on, because all of their passages are positives."""
    count = sum(len(grades) == len(ids) for grades, ids in zip(row_set.qrels.values(), row_set.ids))
    if not count:
        return []
    return [
        f"{count:,} of {len(row_set.ids):,} rows have no negative, so every order of their passages is right and every "
        "model gets 1 there: give them negatives (finerank mine), or judge on a folder with corpus.jsonl"
    ]


def without_titles(row_set: RowSet) -> tuple[RowSet, int]:
    """Return the rows without their passages' titles, and how many had one.

    A title is the first line of a passage of several, at most ``MOST_TITLE`` characters long (FlashRAG's form).
    """
    bare = {name: _body(text) for name, text in row_set.passages.items()}
    return row_set._replace(passages=bare), sum(bare[name] != text for name, text in row_set.passages.items())


def beside_text(data: Mapping[str, Any]) -> str:
    """Return the table of what stands beside the models, or nothing."""
    names = data.get("baselines")
    if not names:
        return ""
    metrics = list(next(iter(names.values()))["metrics"])
    rows = [[name, *(_cell(found["metrics"][metric]) for metric in metrics)] for name, found in names.items()]
    return "\n\n" + table(["beside", *metrics], rows)


def _tested(models: Sequence[Loaded], row_set: RowSet, options: ArmOptions, task: RowTask) -> Tested:
    arms = row_arms(models, row_set, options, seed=task.seed)
    report = build_report(
        arms.runs,
        row_set.qrels,
        row_set.queries,
        row_set.passages,
        metrics=task.metrics,
        baseline=arms.resolve(task.baseline),
        comparisons=arms.comparisons,
        title=task.title,
        notes=arms.notes,
        more_values=arms.values,
        overall=arms.overall,
        facts=arms.facts,
        sample_queries=task.sample_queries,
        seed=task.seed,
    )
    beside, runs = _beside(report, row_set, task)
    verdicts = _against_bm25(report, beside[BM25], task.seed)
    report.notes.extend(verdict.sentence + "." for verdict in verdicts)
    return Tested(report, arms, beside, verdicts, row_set, None, arms.runs | runs)


def _beside(report: Report, row_set: RowSet, task: RowTask) -> tuple[dict[str, ArmResult], dict[str, Run]]:
    """Return the figures of BM25 and of chance, and their runs; of an arm that is there already, its own."""
    known = {arm.name: arm for arm in report.arms if arm.name == BM25}
    arms = Arms(row_set.qrels)
    generator = np.random.default_rng(stream_seed(task.seed, "evaluate", RANDOM))
    for name in (name for name in (BM25, RANDOM) if name not in known):
        scores = bm25_rows(row_set) if name == BM25 else generator.random(len(row_set.pairs()), dtype=np.float32)
        arms.add(name, row_set.run(scores), name)
        add_figures(arms, name, row_set, scores, 0.0 if name == BM25 else 0.5, task.seed)
    metrics = [metric for metric in report.metrics if metric not in ACCURACIES]
    found = build_report(
        arms.runs, row_set.qrels, row_set.queries, row_set.passages, metrics=metrics, more_values=arms.values,
        overall=arms.overall, facts=arms.facts, sample_queries=0, seed=task.seed,
    )  # fmt: skip
    both = known | {arm.name: arm for arm in found.arms}
    return {name: both[name] for name in (BM25, RANDOM)}, arms.runs


def _against_bm25(report: Report, bm25: ArmResult, seed: int) -> list[AgainstBm25]:
    """Test every arm against BM25 in the headline metric."""
    metric = report.headline_metric
    arms = [arm for arm in report.arms if arm.name != BM25]
    queries = list(bm25.values[metric])
    base = aligned(bm25.values[metric], queries)
    pairs = [(aligned(arm.values[metric], queries), base) for arm in arms]
    differences = bootstrap_intervals([a - b for a, b in pairs], seed)
    p_values = holm(paired_randomisations(pairs, seed))
    return [
        AgainstBm25(arm.name, metric, arm.intervals[metric].mean, difference, p)
        for arm, difference, p in zip(arms, differences, p_values)
    ]


def _speak(found: Tested) -> None:
    for verdict in found.verdicts:
        (warn if verdict.verdict == "worse" else say)(verdict.sentence)


def _figures(arm: ArmResult) -> dict[str, Any]:
    return {
        "metrics": {metric: value._asdict() for metric, value in arm.intervals.items()},
        "overall": {name: value._asdict() for name, value in arm.overall.items()},
        "facts": arm.facts,
    }


def _body(text: str) -> str:
    first, newline, rest = text.partition("\n")
    return rest.strip() if newline and rest.strip() and len(first) <= MOST_TITLE else text


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
