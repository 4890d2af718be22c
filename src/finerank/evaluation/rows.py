"""Row sets: every passage of a row is scored; how well do positives stand above negatives?

Two kinds of figures. Ranking metrics, per row, come from ``metrics`` over qrels and a run made of the row; ties are
**pessimistic** there (a negative that scores the same as a positive ranks above it). Pair figures run over all
(query, passage) pairs as in seed 000: precision, recall and F1 at 0.5 and at the best threshold, AUC; ties count
**half** in AUC and in pair accuracy. Their intervals resample rows, not pairs, since a row's pairs belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finerank.batching.row_prompts import Prompts
from finerank.core.records import Group, Row
from finerank.core.runs import Qrels, Run
from finerank.core.seeding import DEFAULT_SEED
from finerank.data.row_index import kind_of
from finerank.evaluation.metrics import check_scores
from finerank.evaluation.significance import Interval, random_generator, tail

FloatArray = NDArray[np.float64]
RESAMPLES = 1_000
ACCURACIES = ("pair accuracy", "all positives first")
METRICS = ("nDCG@10", "MRR", "MAP", "Success@1", "nDCG@1", "nDCG@3", "nDCG@5")


class RowSet(NamedTuple):
    """Rows laid out for scoring.

    Attributes:
        queries: query id -> text. A row is a query of its own, even if two rows share the text.
        passages: passage id -> text. Ids sort so that at equal scores negatives come first (``core.runs.ranked``).
        qrels: the positives.
        ids: per row, its passage ids, positives first.
        rows: as they were read, for what they say beside their texts.
    """

    queries: dict[str, str]
    passages: dict[str, str]
    qrels: Qrels
    ids: list[list[str]]
    rows: Sequence[Row]

    def pairs(self) -> list[tuple[str, str]]:
        """Return all (query, passage) texts, row by row."""
        texts = zip(self.queries.values(), self.ids)
        return [(query, self.passages[passage]) for query, ids in texts for passage in ids]

    def groups(self, prompts: Prompts) -> list[Group]:
        """Return each row with all of its passages, in the order of ``pairs``, and with what it puts around them."""
        texts = zip(self.rows, self.queries.values(), self.ids)
        return [
            Group(query, tuple(self.passages[name] for name in ids), number, **prompts(row, kind_of(row)))
            for number, (row, query, ids) in enumerate(texts)
        ]

    def run(self, scores: Sequence[float] | NDArray[Any]) -> Run:
        """Return the run of scores that are aligned with ``pairs``."""
        check_scores(scores, "row set")
        flat = iter(scores)
        return {query: {passage: float(next(flat)) for passage in ids} for query, ids in zip(self.queries, self.ids)}

    def labels(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return, aligned with ``pairs``, whether each is a positive [P] and its row's number [P]."""
        positive = [passage in grades for grades, ids in zip(self.qrels.values(), self.ids) for passage in ids]
        rows = np.repeat(np.arange(len(self.ids)), [len(ids) for ids in self.ids])
        return np.array(positive, dtype=bool), rows.astype(np.int64)


def lay_out(rows: Sequence[Row]) -> RowSet:
    """Give every passage of every row an id; rows without a negative stay: they count in precision and recall."""
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    qrels: Qrels = {}
    ids: list[list[str]] = []
    for number, row in enumerate(rows, start=1):
        query = f"row-{number}"
        positives = [f"{query}-1-pos-{place}" for place in range(1, len(row.positives) + 1)]
        negatives = [f"{query}-2-neg-{place}" for place in range(1, len(row.negatives) + 1)]
        queries[query] = row.query
        qrels[query] = dict.fromkeys(positives, 1)
        passages.update(zip(positives + negatives, row.positives + row.negatives))
        ids.append(positives + negatives)
    return RowSet(queries, passages, qrels, ids, rows)


def row_accuracies(row_set: RowSet, run: Run) -> dict[str, dict[str, float]]:
    """Return per row ``pair accuracy`` (share of positive-negative pairs in the right order, ties half) and ``all
    positives first`` (1 if every positive is strictly above every negative). Rows without negatives are left out.
    """
    values: dict[str, dict[str, float]] = {name: {} for name in ACCURACIES}
    for query, scores in run.items():
        grades = row_set.qrels[query]
        positives = np.array([score for passage, score in scores.items() if passage in grades])
        negatives = np.array([score for passage, score in scores.items() if passage not in grades])
        if negatives.size:
            above, level = _compare(positives, negatives)
            values["pair accuracy"][query] = (above + level / 2.0) / (positives.size * negatives.size)
            values["all positives first"][query] = float(positives.min() > negatives.max())
    return values


def pair_figures(
    row_set: RowSet,
    scores: Sequence[float] | NDArray[Any],
    *,
    boundary: float,
    seed: int = DEFAULT_SEED,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Compute the figures over all pairs, each with its 95 % bootstrap interval over rows.

    Args:
        scores: aligned with ``row_set.pairs()``; raw, since a sigmoid in float32 makes ties of large logits.
        boundary: what a positive's score must exceed: 0 for logits, where the sigmoid is 0.5.
    """
    check_scores(scores, "row set")
    positive, rows = row_set.labels()
    curve = _Curve(np.asarray(scores, dtype=np.float64), positive, rows, boundary)
    point = curve.figures(np.ones(len(row_set.ids)))
    generator = random_generator(seed, "rows")
    count = len(row_set.ids)
    draws = [
        curve.figures(np.bincount(generator.integers(0, count, size=count), minlength=count).astype(np.float64))
        for _ in range(resamples)
    ]
    intervals, outside = {}, tail(count)
    for name, value in point.items():
        low, high = np.quantile([draw[name] for draw in draws], [outside, 1 - outside]) if draws else (value, value)
        intervals[name] = Interval(value, float(low), float(high))
    return intervals


def best_threshold(row_set: RowSet, scores: Sequence[float] | NDArray[Any]) -> float:
    """Return the lowest score that still counts as positive at the best F1 on these rows (so an optimistic F1)."""
    positive, rows = row_set.labels()
    curve = _Curve(np.asarray(scores, dtype=np.float64), positive, rows, 0.0)
    return float(curve.scores[curve.ends[int(np.argmax(curve.f1_values(np.ones(len(row_set.ids)))))]])


class _Curve:
    """Pairs in falling order of score, sorted once for all resamples; ``ends`` are the last places of equal scores."""

    def __init__(self, scores: FloatArray, positive: NDArray[np.bool_], rows: NDArray[np.int64], boundary: float):
        order = np.argsort(-scores, kind="stable")
        self.scores = scores[order]
        self.positive = positive[order].astype(np.float64)
        self.rows = rows[order]
        self.ends = np.append(np.flatnonzero(np.diff(self.scores)), len(scores) - 1)
        self.above = int((scores > boundary).sum())

    def counts(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return true and false positives after each place [P], rows counted ``weights`` [R] times."""
        times = weights[self.rows]
        return np.cumsum(times * self.positive), np.cumsum(times * (1.0 - self.positive))

    def f1_values(self, weights: FloatArray) -> FloatArray:
        """Return F1 at each distinct threshold."""
        true, false = self.counts(weights)
        found = true[self.ends]
        return np.asarray(2.0 * found / np.maximum(found + false[self.ends] + true[-1], 1e-300))

    def figures(self, weights: FloatArray) -> dict[str, float]:
        true, false = self.counts(weights)
        hit, wrong = (true[self.above - 1], false[self.above - 1]) if self.above else (0.0, 0.0)
        precision = _ratio(hit, hit + wrong)
        recall = _ratio(hit, true[-1])
        return {
            "precision": precision,
            "recall": recall,
            "F1": _ratio(2.0 * precision * recall, precision + recall),
            "best F1": float(self.f1_values(weights).max()),
            "AUC": self._auc(true[self.ends], false[self.ends]),
        }

    @staticmethod
    def _auc(true: FloatArray, false: FloatArray) -> float:
        """Area under the ROC curve by trapezoids, which counts ties half; 0.5 where one class is absent."""
        if true[-1] == 0.0 or false[-1] == 0.0:
            return 0.5
        heights = np.append(0.0, true)
        widths = np.diff(np.append(0.0, false))
        return float((widths * (heights[1:] + heights[:-1])).sum() / (2.0 * true[-1] * false[-1]))


def _compare(positives: FloatArray, negatives: FloatArray) -> tuple[int, int]:
    difference = positives[:, None] - negatives[None, :]
    return int((difference > 0).sum()), int((difference == 0).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
