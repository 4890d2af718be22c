"""Ranking metrics: qrels and a run in, one value per query out.

The figures come from ir_measures; what is ours is what it leaves open. Its providers break ties differently (nDCG
and MAP by passage id descending, RR@k ascending) and pytrec_eval compares scores as float32, so every run is ordered
once by ``core.runs.ranked`` and handed over as whole ranks. A query without results scores 0, a NaN is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finerank.core.errors import UsageError, UserError, did_you_mean
from finerank.core.runs import Qrels, Run, ranked

SPELLINGS: dict[str, str] = {
    "ndcg": "nDCG", "mrr": "MRR", "rr": "MRR", "map": "MAP", "ap": "MAP", "recall": "Recall", "r": "Recall",
    "p": "P", "precision": "P", "success": "Success", "hit": "Success", "hits": "Success", "hit_rate": "Success",
    "accuracy": "Success",
}  # fmt: skip
"""What people type, lower-cased and without the cutoff -> the name used here."""

NEEDS_CUTOFF = frozenset({"Recall", "P", "Success"})


def canonical(name: str) -> str:
    """Return the one spelling of a metric's name.

    Raises:
        UsageError: if neither this table nor ir_measures knows it.

    >>> canonical("ndcg@10"), canonical("recall_100"), canonical("hit@1"), canonical("mrr")
    ('nDCG@10', 'Recall@100', 'Success@1', 'MRR')
    """
    match = re.fullmatch(r"([A-Za-z_]+?)(?:[@_](\d+))?", name.strip())
    known = SPELLINGS.get(match[1].lower()) if match else None
    if match is None or known is None:
        return _foreign(name)
    cutoff = match[2]
    if cutoff is None and known in NEEDS_CUTOFF:
        raise UsageError(f'metric "{name}" needs a cutoff', hint=f"{known}@10")
    if cutoff is not None and int(cutoff) < 1:
        raise UsageError(f'metric "{name}": the cutoff must be at least 1')
    return known if cutoff is None else f"{known}@{int(cutoff)}"


def evaluate_run(qrels: Qrels, run: Run, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compute metrics per query.

    Args:
        qrels: the queries that are judged; the mean is over all of them. Grades below 1 are not relevant; nDCG
            takes the grade itself as gain.
        run: scores; queries that ``qrels`` does not name are left out.
        metrics: names as people type them.

    Returns:
        metric (as given) -> query id (in the order of ``qrels``) -> value; 0 for a query that the run misses.

    Raises:
        UsageError: for an unknown metric.
        UserError: for a score that is not a finite number.
    """
    import ir_measures

    measures = {name: ir_measures.parse_measure(canonical(name)) for name in metrics}
    values = {name: dict.fromkeys(qrels, 0.0) for name in metrics}
    ranks = {query: _as_ranks(query, run[query]) for query in qrels if run.get(query)}
    if not ranks or not measures:
        return values
    found: dict[Any, dict[str, float]] = {}
    for metric in ir_measures.iter_calc(list(set(measures.values())), qrels, ranks):
        found.setdefault(metric.measure, {})[metric.query_id] = float(metric.value)
    for name, measure in measures.items():
        values[name].update({query: value for query, value in found.get(measure, {}).items() if query in qrels})
    return values


def check_scores(scores: Iterable[float], where: str) -> None:
    """Raise UserError if a score is NaN or infinite: it would be ranked in silence."""
    bad = next((score for score in scores if not math.isfinite(score)), None)
    if bad is not None:
        raise UserError(
            f"a score must be a finite number, got {bad}",
            where=where,
            hint="a model that gives NaN is broken, or its dtype is too narrow: try --dtype float32",
        )


def mean(values: Mapping[str, float]) -> float:
    """Return the mean over queries; 0 for none."""
    return math.fsum(values.values()) / len(values) if values else 0.0


def _as_ranks(query: str, scores: Mapping[str, float]) -> dict[str, float]:
    check_scores(scores.values(), f'query "{query}"')
    order = ranked(scores)
    return {candidate.passage_id: float(len(order) - place) for place, candidate in enumerate(order)}


def _foreign(name: str) -> str:
    import ir_measures

    try:
        return str(ir_measures.parse_measure(name))
    except (ValueError, NameError, SyntaxError):
        known = sorted({f"{value}@10" for value in SPELLINGS.values()})
        raise UsageError(f'unknown metric "{name}"{did_you_mean(name, known)}', hint=" ".join(known)) from None
