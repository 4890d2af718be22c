"""The result of one model on rows, laid out flat, as of seed 003's ``test_reranker``: ``result["metrics"]["mrr"]``.

The report's own ``metrics``, ``baseline`` and ``per_query`` have other shapes; they stand under ``report``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finerank.core.runs import Run
from finerank.evaluation.row_report import Tested
from finerank.evaluation.rows import RowSet, best_threshold

NAMES = {
    "Success@1": "hit@1", "all positives first": "accuracy_all_pos", "pair accuracy": "pair_accuracy", "MRR": "mrr",
    "MAP": "map", "nDCG@1": "ndcg@1", "nDCG@3": "ndcg@3", "nDCG@5": "ndcg@5", "nDCG@10": "ndcg@10", "AUC": "auc",
    "precision": "precision", "recall": "recall", "F1": "f1", "best F1": "best_f1",
}  # fmt: skip
"""A report's names and the flat ones, in their order."""
SHAPED_OTHERWISE = ("metrics", "baseline", "per_query")


def one_model(tested: Tested, name: str, path: str, data: Sequence[str]) -> dict[str, Any]:
    """Return the flat layout for the arm ``name``.

    Scores are raw (logits of a reranker); ``per_query`` lists a row's positives first.
    """
    row_set, run = tested.row_set, tested.runs[name]
    positive, _ = row_set.labels()
    scores = [score for found in run.values() for score in found.values()]
    above = _mean([score for score, is_positive in zip(scores, positive) if is_positive])
    below = _mean([score for score, is_positive in zip(scores, positive) if not is_positive])
    flat = _flat(tested, name)
    found: dict[str, Any] = {
        "model_path": path,
        "test_data": data[0] if len(data) == 1 else list(data),
        "num_queries": len(row_set.queries),
        "num_pairs": len(scores),
        "metrics": {key: value for key, value in flat.items() if key != "ci95"},
        "ci95": flat["ci95"],
        "baseline": {beside: _flat(tested, beside) for beside in tested.beside},
        "mean_pos_score": above,
        "mean_neg_score": below,
        "margin": None if above is None or below is None else above - below,
        "per_query": per_query(row_set, run),
    }
    if tested.stripped is not None:
        bare = tested.stripped
        found["strip_titles"] = {
            "metrics": _flat(bare, name), "baseline": {beside: _flat(bare, beside) for beside in bare.beside}
        }  # fmt: skip
    return found


def shaped(report: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Join a report's data with the flat layout, whose names win."""
    return {**report, **flat, "report": {key: report[key] for key in SHAPED_OTHERWISE}}


def report_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report's data as it was before ``shaped``."""
    return {**data, **data.get("report", {})}


def _flat(tested: Tested, name: str) -> dict[str, Any]:
    """Return the means by their flat names, the best threshold and, under ``ci95``, [low, high] of each."""
    arm = tested.beside.get(name) or tested.report.arm(name)
    known = {**arm.intervals, **arm.overall}
    means: dict[str, Any] = {flat: known[key].mean for key, flat in NAMES.items() if key in known}
    ends = {flat: [known[key].low, known[key].high] for key, flat in NAMES.items() if key in known}
    scores = [score for found in tested.runs[name].values() for score in found.values()]
    return {**means, "threshold": best_threshold(tested.row_set, scores), "ci95": ends}


def per_query(row_set: RowSet, run: Run) -> list[dict[str, Any]]:
    """Return each row's counts, scores and the pessimistic rank of its best positive, from 1."""
    found = []
    for (name, query), ids in zip(row_set.queries.items(), row_set.ids):
        count = len(row_set.qrels[name])
        scores = [run[name][passage] for passage in ids]
        best = max(scores[:count])
        rank = 1 + sum(score >= best for score in scores[count:])
        found.append(
            {"query": query, "n_pos": count, "n_neg": len(ids) - count, "rank_first_pos": rank, "scores": scores}
        )
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
