"""``--also``: the same models on a second judged set. A model tuned on one collection often forgets another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finerank.data.console import say, warn
from finerank.data.judged import Judged
from finerank.evaluation.arms import ArmOptions, Arms, Loaded, judged_arms
from finerank.evaluation.plan import BM25
from finerank.evaluation.report import SIGNIFICANT, Comparison, Report, build_report, p_text, report_data, signed

FORGETS, GAINS, UNCLEAR = "forgets", "gains", "unclear"


def try_also(
    models: Sequence[Loaded],
    judged: Judged,
    split: str,
    options: ArmOptions,
    *,
    main: Arms,
    baseline: str,
    metrics: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Judge every model on another set; return its report's data and a verdict on every arm.

    Args:
        main: the arms of the first set, whose fusion weights are used.
        baseline: the first set's baseline, an arm's name. Runs can't be tried: without a baseline, the first arm is.
    """
    tried = [model for model in models if model.kind != "run"]
    stand_in = any(not model.searches for model in tried) and not any(model.first for model in tried)
    if stand_in:
        tried = [Loaded(BM25, BM25, None, True, False, None), *tried]
    if stand_in or not main.fusions:  # weights of other first stages, or unknown yet, are none of this set's
        options = replace(options, fusion="none")
    say(f"also {judged.name}, {split}: {len(judged.queries):,} queries")
    arms = judged_arms(tried, judged, None, options, main.fusions)
    stands_for = _baseline(main, arms, baseline)
    report = build_report(
        arms.runs,
        judged.qrels,
        dict(zip(judged.query_ids, judged.queries)),
        dict(zip(judged.passage_ids, judged.passages)),
        metrics=metrics,
        baseline=stands_for,
        comparisons=arms.comparisons,
        title=f"{judged.name}, {split}",
        notes=arms.notes,
        facts=arms.facts,
        sample_queries=0,
        seed=seed,
    )
    if stands_for is None:
        report.notes.append(f"{baseline} cannot be tried here, so the baseline is {report.baseline}.")
    verdicts = verdicts_of(report, judged.name)
    for verdict in verdicts:
        (warn if verdict["verdict"] == FORGETS else say)(verdict["sentence"])
    return {"data": judged.name, "split": split, **report_data(report), "verdicts": verdicts}


def verdicts_of(report: Report, name: str) -> list[dict[str, Any]]:
    """Judge every arm against the baseline in the headline metric."""
    metric = report.headline_metric
    tests = [test for test in report.comparisons if test.metric == metric and test.against == report.baseline]
    tests = [test for test in tests if test.arm != BM25]  # it has learnt nothing that it could forget
    return [_verdict(test, report, name) for test in tests]


def _verdict(test: Comparison, report: Report, name: str) -> dict[str, Any]:
    after = report.arm(test.arm).intervals[test.metric].mean
    before = report.arm(test.against).intervals[test.metric].mean
    verdict = UNCLEAR if test.p >= SIGNIFICANT else GAINS if test.difference.mean > 0 else FORGETS
    figures = f"{signed(test.difference)} {test.metric} on {name} ({before:.3f} → {after:.3f}), {p_text(test.p)}"
    told = {
        FORGETS: f"{test.arm} forgets" if test.against != BM25 else f"{test.arm} is below {BM25}",
        GAINS: f"{test.arm} gains",
        UNCLEAR: f"{test.arm} is not shown to " + ("forget" if test.against != BM25 else f"differ from {BM25}"),
    }[verdict]
    sentence = f"{told}: {figures}"
    if verdict == UNCLEAR and test.detectable:
        sentence += (
            f"; {report.query_count:,} queries show a difference of {test.detectable:.3f} or more in 4 of 5 such "
            "comparisons"
        )
    return {
        "arm": test.arm, "against": test.against, "metric": test.metric, "before": before, "after": after,
        "difference": test.difference._asdict(), "p_holm": test.p, "verdict": verdict, "sentence": sentence,
    }  # fmt: skip


def _baseline(main: Arms, arms: Arms, baseline: str) -> str | None:
    """Return the arm that the first set's baseline is here: the same name, else the same model."""
    if baseline in arms.runs:
        return baseline
    return arms.names.get(_path(main, baseline))


def _path(arms: Arms, name: str) -> str:
    """Return the path of an arm's model; empty for an arm of several."""
    return next((path for path, arm in arms.names.items() if arm == name), "")
