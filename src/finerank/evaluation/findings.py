"""What a result holds beside its report, as plain JSON values: extremes, depth curves, slices, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finerank.core.runs import Qrels, Run
from finerank.evaluation.arms import Arms
from finerank.evaluation.calibration import best_cut, calibrate, cut_figures, pairs_of, sigmoid
from finerank.evaluation.depth import depth_curve
from finerank.evaluation.metrics import canonical, evaluate_run, mean
from finerank.evaluation.report import Report
from finerank.evaluation.slices import parts_of, sliced

MOST_EXTREME = 10


def extremes_data(report: Report, queries: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return, for each arm, the queries that gained and lost most against the baseline in the headline metric."""
    metric, found = report.headline_metric, []
    base = report.arm(report.baseline).values[metric]
    for arm in (arm for arm in report.arms if arm.name != report.baseline):
        after = arm.values[metric]
        order = sorted(
            (query for query in base if query in after), key=lambda query: (base[query] - after[query], query)
        )
        gained = [query for query in order[:MOST_EXTREME] if after[query] > base[query]]
        lost = [query for query in order[: -MOST_EXTREME - 1 : -1] if after[query] < base[query]]
        sides = {
            side: [
                {"query_id": query, "query": queries.get(query, query), "before": base[query], "after": after[query]}
                for query in chosen
            ]
            for side, chosen in (("gained", gained), ("lost", lost))
        }
        found.append({"arm": arm.name, "against": report.baseline, "metric": metric, **sides})
    return found


def depth_data(arms: Arms, depths: Sequence[int], metric: str, seed: int) -> list[dict[str, Any]]:
    """Return the depth curve of each reranker over each first stage."""
    metric = canonical(metric)
    return [
        {
            "arm": name, "first_stage": first, "metric": metric,
            "first_stage_value": mean(evaluate_run(arms.qrels, arms.runs[first], [metric])[metric]),
            "curve": [
                point._asdict() | {"value": point.value._asdict()}
                for point in depth_curve(
                    arms.qrels, arms.runs[first], arms.runs[name], sorted(set(depths)), metric, seed
                )
            ],
        }
        for name, first in arms.reranked.items()
    ]  # fmt: skip


def slices_data(
    report: Report, queries: Mapping[str, str], types: Mapping[str, str], seed: int
) -> list[dict[str, Any]]:
    """Return every arm's figures on parts of the queries, against the baseline; of a single arm without differences."""
    metric, parts = report.headline_metric, parts_of(queries, types)
    base = report.arm(report.baseline).values[metric]
    found: list[dict[str, Any]] = []
    for arm in (arm for arm in report.arms if arm.name != report.baseline or len(report.arms) == 1):
        alone = arm.name == report.baseline
        entries = []
        for part in sliced(parts, arm.values[metric], base, seed):
            entry = {"kind": part.kind, "name": part.name, "queries": part.queries, "value": part.value._asdict()}
            if not alone:
                entry |= {
                    "baseline": part.baseline._asdict(), "difference": part.difference._asdict(), "p_holm": part.p
                }  # fmt: skip
            entries.append(entry)
        against = {} if alone else {"against": report.baseline}
        found.append({"arm": arm.name, **against, "metric": metric, "parts": entries})
    return [entry for entry in found if entry["parts"]]


def calibration_data(arms: Arms, dev: Mapping[str, Run], dev_qrels: Qrels | None, seed: int) -> list[dict[str, Any]]:
    """Return each reranker's reliability curve and best threshold.

    Args:
        dev: arm -> its run over the development queries; without ``dev_qrels`` the judged queries stand in for them.
    """
    found = []
    for name in arms.reranked:
        pairs = pairs_of(arms.runs[name], arms.qrels)
        if not len(pairs.scores):
            continue
        curve = calibrate(pairs.scores, pairs.relevant)
        entry: dict[str, Any] = {
            "arm": name, "pairs": len(pairs.scores), "relevant": int(pairs.relevant.sum()),
            "bins": [bin_._asdict() for bin_ in curve.bins], "error": curve.error, "brier": curve.brier,
        }  # fmt: skip
        chosen_on = pairs if dev_qrels is None else pairs_of(dev[name], dev_qrels)
        score = best_cut(chosen_on)
        if score is not None:
            where = "judged" if dev_qrels is None else "dev"
            figures = {key: value._asdict() for key, value in cut_figures(pairs, score, seed).items()}
            entry["threshold"] = {
                "score": score, "probability": float(sigmoid(np.array([score]))[0]), "chosen_on": where,
                "queries": chosen_on.queries, **figures,
            }  # fmt: skip
            entry["threshold"]["sentence"] = _sentence(entry["threshold"])
        found.append(entry)
    return found


def _sentence(cut: Mapping[str, Any]) -> str:
    """Say where to cut, what that gives, and how far it may be believed."""
    figures = ", ".join(
        f"{name} {cut[name]['mean']:.3f} [{cut[name]['low']:.3f}, {cut[name]['high']:.3f}]"
        for name in ("precision", "recall", "F1")
    )
    on = f"{cut['queries']:,} development queries"
    if cut["chosen_on"] == "judged":
        on = f"these very {cut['queries']:,} queries, so its figures are flattering"
    return (
        f"best cut at a score of {cut['score']:.4g} (probability {cut['probability']:.3f}), chosen on {on}: {figures}"
    )
