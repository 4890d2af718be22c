"""From loaded models and a task to the result: arms, report, and the findings beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from finerank.core.evaluate_options import EvaluateOptions
from finerank.evaluation.arms import ArmOptions, Arms, Loaded, judged_arms
from finerank.evaluation.costs import cost_data, times_data
from finerank.evaluation.findings import calibration_data, depth_data, extremes_data, slices_data
from finerank.evaluation.forgetting import try_also
from finerank.evaluation.report import Report, build_report, report_data
from finerank.evaluation.row_arms import score_rows
from finerank.evaluation.row_layout import one_model
from finerank.evaluation.row_report import RowTask, judge_rows
from finerank.evaluation.rows import METRICS as ROW_METRICS
from finerank.evaluation.task import Task

METRICS = ("nDCG@10", "MRR@10", "MAP")


@dataclass(frozen=True)
class Judgement:
    """What an evaluation found.

    Attributes:
        data: the result; ``times`` stands in it under a key of its own.
        flat: the flat layout of one model on rows, else None.
    """

    report: Report
    arms: Arms
    data: dict[str, Any] = field(default_factory=dict)
    flat: dict[str, Any] | None = None


def judge(options: EvaluateOptions, models: list[Loaded], task: Task, how: ArmOptions) -> Judgement:
    """Judge every arm, and find what was asked for beside it."""
    found = _judged(options, models, task, how) if task.judged is not None else _rows(options, models, task, how)
    report, arms, queries = found.report, found.arms, dict(zip(found.arms.qrels, task.queries))
    if len(report.arms) > 1:
        found.data["extremes"] = extremes_data(report, queries)
    if options.depths:
        found.data["depth"] = depth_data(arms, options.depths, report.headline_metric, options.seed)
    if options.slices:
        found.data["slices"] = slices_data(report, queries, task.types, options.seed)
        if not found.data["slices"]:
            report.notes.append("No slices: the queries do not fall into two parts of ten or more.")
    if options.calibration:
        found.data["calibration"] = _calibration(options, models, task, how, arms)
    if task.also:
        found.data["also"] = [
            try_also(
                models, judged, options.also_split or options.split, how, main=arms, baseline=report.baseline,
                metrics=judged_metrics(options), seed=options.seed,
            )
            for judged in task.also
        ]  # fmt: skip
    found.data["cost"] = cost_data(arms.costs, len(task.queries))
    found.data["times"] = times_data(arms.costs, len(task.queries))
    known = report_data(report)
    return Judgement(report, arms, known | {key: value for key, value in found.data.items() if value}, found.flat)


def judged_metrics(options: EvaluateOptions) -> list[str]:
    """Return the metrics of a judged set."""
    return options.metrics or [*METRICS, f"Recall@{options.top_k}"]


def _judged(options: EvaluateOptions, models: list[Loaded], task: Task, how: ArmOptions) -> Judgement:
    judged = task.judged
    assert judged is not None
    arms = judged_arms(models, judged, task.dev, how)
    report = build_report(
        arms.runs,
        judged.qrels,
        dict(zip(judged.query_ids, judged.queries)),
        dict(zip(judged.passage_ids, judged.passages)),
        metrics=judged_metrics(options),
        baseline=arms.resolve(options.baseline),
        comparisons=arms.comparisons,
        title=f"{judged.name}, {task.split}",
        notes=[*arms.notes, *_short_lists(options, models)],
        facts=arms.facts,
        sample_queries=options.sample_queries,
        seed=options.seed,
    )
    return Judgement(report, arms, {"data": judged.name, "split": task.split})


def _short_lists(options: EvaluateOptions, models: list[Loaded]) -> list[str]:
    """Say it if metrics look further down than the lists that are searched here; runs are read whole."""
    deeper = [
        metric
        for metric in judged_metrics(options)
        if (found := re.search(r"@(\d+)$", metric)) and int(found[1]) > options.top_k
    ]
    if not deeper or all(model.kind == "run" for model in models):
        return []
    return [
        f"Lists end at rank {options.top_k:,} (--top_k), so {', '.join(deeper)} cannot see further: relevant passages "
        "behind it count as missed."
    ]


def _rows(options: EvaluateOptions, models: list[Loaded], task: Task, how: ArmOptions) -> Judgement:
    assert task.rows is not None
    named = options.baseline, f"rows of {', '.join(options.data)}", options.seed, options.sample_queries
    asked = RowTask(options.metrics or ROW_METRICS, *named, titles=options.strip_titles)
    tested = judge_rows(models, task.rows, how, asked)
    flat = None
    own = [model for model in models if model.path in options.model_name_or_path]
    if len(own) == 1 and not options.metrics and not options.first_stage and options.fusion == "none":
        flat = one_model(tested, own[0].name, own[0].path, options.data)
    return Judgement(tested.report, tested.arms, {"data": options.data, **tested.data()}, flat)


def _calibration(
    options: EvaluateOptions, models: list[Loaded], task: Task, how: ArmOptions, arms: Arms
) -> list[dict[str, Any]]:
    if task.judged is not None:
        return calibration_data(arms, arms.dev, None if task.dev is None else task.dev.qrels, options.seed)
    if task.dev_rows is None:
        return calibration_data(arms, {}, None, options.seed)
    dev = {
        model.name: task.dev_rows.run(score_rows(model, task.dev_rows, how))
        for model in models
        if model.name in arms.reranked
    }
    return calibration_data(arms, dev, task.dev_rows.qrels, options.seed)
