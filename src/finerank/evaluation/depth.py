"""How deep to rerank: a reranker's quality at each depth, beside what the first stage's candidates allow at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finerank.core.runs import Qrels, Run, ranked
from finerank.core.seeding import DEFAULT_SEED
from finerank.evaluation.metrics import evaluate_run, mean
from finerank.evaluation.significance import Interval, bootstrap_intervals

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)


class AtDepth(NamedTuple):
    """One depth of the curve.

    Attributes:
        value: the metric and its interval, with this many candidates reranked and the others behind them in the first
            stage's order.
        ceiling: the metric if those candidates were put in the best order there is.
        recall: share of the relevant passages among them.
        pairs: pairs that were scored for it, over all queries.
    """

    depth: int
    value: Interval
    ceiling: float
    recall: float
    pairs: int


def depths_up_to(most: int) -> list[int]:
    """Return the usual depths below ``most``, and ``most``.

    >>> depths_up_to(50), depths_up_to(7)
    ([10, 20, 50], [7])
    """
    return [*(depth for depth in DEPTHS if depth < most), most]


def depth_curve(
    qrels: Qrels, first: Run, reranked: Run, depths: Sequence[int], metric: str, seed: int = DEFAULT_SEED
) -> list[AtDepth]:
    """Return the curve of one reranker over one first stage.

    Args:
        first: the first stage's run, at least as deep as the deepest.
        reranked: the reranker's scores of the first stage's best.
    """
    values, ceilings, recalls = [], [], []
    for depth in depths:
        cut = {query: spliced(first.get(query, {}), reranked.get(query, {}), depth) for query in qrels}
        best = {query: _best_order(first.get(query, {}), qrels[query], depth) for query in qrels}
        values.append(list(evaluate_run(qrels, cut, [metric])[metric].values()))
        ceilings.append(mean(evaluate_run(qrels, best, [metric])[metric]))
        recalls.append(mean(evaluate_run(qrels, first, [f"Recall@{depth}"])[f"Recall@{depth}"]))
    pairs = [sum(min(depth, len(first.get(query, {}))) for query in qrels) for depth in depths]
    return list(map(AtDepth, depths, bootstrap_intervals(values, seed), ceilings, recalls, pairs))


def spliced(first: Mapping[str, float], scores: Mapping[str, float], depth: int) -> dict[str, float]:
    """Rank the first stage's best ``depth`` by ``scores``, the rest behind them as they were; return ranks as scores.

    >>> spliced({"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.1, "b": 0.9, "c": 5.0}, 2)
    {'b': 3.0, 'a': 2.0, 'c': 1.0}
    """
    order = [candidate.passage_id for candidate in ranked(first)]
    head = {passage: scores[passage] for passage in order[:depth] if passage in scores}
    above = [candidate.passage_id for candidate in ranked(head)]
    whole = [*above, *(passage for passage in order if passage not in head)]
    return {passage: float(len(whole) - place) for place, passage in enumerate(whole)}


def _best_order(first: Mapping[str, float], grades: Mapping[str, int], depth: int) -> dict[str, float]:
    kept = [candidate.passage_id for candidate in ranked(first)][:depth]
    return spliced(first, {passage: float(grades.get(passage, 0)) for passage in kept}, depth)
