"""What a score means, for people who cut by it: how often passages with such scores are relevant.

Source of the expected calibration error: Naeini et al. 2015 (bins of equal width); here bins hold equally many pairs,
since a reranker's scores crowd at both ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finerank.core.runs import Qrels, Run
from finerank.core.seeding import DEFAULT_SEED
from finerank.evaluation.significance import Interval, resampled_means, tail

BINS = 10
RESAMPLES = 2_000


class Pairs(NamedTuple):
    """Scored pairs: scores [P], whether each is relevant [P], the number of its query [P], how many queries."""

    scores: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    query: NDArray[np.int64]
    queries: int


class Bin(NamedTuple):
    """Pairs with scores from ``low`` to ``high``: their mean score as a probability, and the share that is relevant."""

    low: float
    high: float
    pairs: int
    predicted: float
    relevant: float


class Calibration(NamedTuple):
    """The reliability curve and its summary.

    Attributes:
        error: expected calibration error, the mean over pairs of |predicted − relevant| of their bin; 0 is best.
        brier: mean squared distance of probability and label.
    """

    bins: list[Bin]
    error: float
    brier: float


def calibrate(logits: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Calibration:
    """Compare scores with labels.

    Args:
        logits: [N]; put through a sigmoid.
        labels: [N], 1 for relevant pairs.

    Raises:
        ValueError: if there are no pairs, or not as many of one as of the other.

    >>> found = calibrate([-2.0, -2.0, 2.0, 2.0], [0, 0, 1, 0], bins=2)
    >>> [(round(each.predicted, 3), each.relevant) for each in found.bins], round(found.error, 3)
    ([(0.119, 0.0), (0.881, 0.5)], 0.25)
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if scores.shape != truth.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"expected scores [N] and labels [N], N > 0, got {scores.shape} and {truth.shape}")
    probabilities = sigmoid(scores)
    order = np.argsort(probabilities, kind="stable")
    found = [
        Bin(
            float(probabilities[part[0]]), float(probabilities[part[-1]]), len(part),
            float(probabilities[part].mean()), float(truth[part].mean()),
        )
        for part in np.array_split(order, min(bins, len(order)))
    ]  # fmt: skip
    error = sum(each.pairs * abs(each.predicted - each.relevant) for each in found) / len(scores)
    return Calibration(found, float(error), float(((probabilities - truth) ** 2).mean()))


def pairs_of(run: Run, qrels: Qrels) -> Pairs:
    """Lay out a run's pairs of judged queries; what is not judged is not relevant."""
    scores: list[float] = []
    relevant: list[bool] = []
    query: list[int] = []
    for number, (name, grades) in enumerate(qrels.items()):
        for passage, score in run.get(name, {}).items():
            scores.append(score)
            relevant.append(grades.get(passage, 0) > 0)
            query.append(number)
    return Pairs(np.array(scores, dtype=np.float64), np.array(relevant, bool), np.array(query, np.int64), len(qrels))


def best_cut(pairs: Pairs) -> float | None:
    """Return the score from which on a pair counts as relevant for the best F1, the lowest of equal ones.

    None if no pair is relevant: then no threshold is better than another.

    >>> best_cut(Pairs(np.array([3.0, 2.0, 1.0]), np.array([True, True, False]), np.zeros(3, int), 1))
    2.0
    """
    if not pairs.relevant.any():
        return None
    order = np.argsort(-pairs.scores, kind="stable")
    scores, hits = pairs.scores[order], np.cumsum(pairs.relevant[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    f1 = 2.0 * hits[ends] / (ends + 1.0 + hits[-1])
    return float(scores[ends[len(f1) - 1 - int(np.argmax(f1[::-1]))]])


def cut_figures(pairs: Pairs, threshold: float, seed: int = DEFAULT_SEED) -> dict[str, Interval]:
    """Return precision, recall and F1 of cutting at ``threshold``, with intervals over queries.

    Recall counts the relevant pairs that were scored: what a first stage missed is no matter of the threshold.
    """
    kept = pairs.scores >= threshold
    parts = (kept & pairs.relevant, kept & ~pairs.relevant, ~kept & pairs.relevant)
    table = np.stack([np.bincount(pairs.query[part], minlength=pairs.queries) for part in parts], axis=1)
    drawn = _ratios(resampled_means(table.astype(np.float64), seed, RESAMPLES))
    outside = tail(pairs.queries)
    found = {}
    for name, value in _ratios(table.mean(axis=0, keepdims=True)).items():
        low, high = np.quantile(drawn[name], [outside, 1.0 - outside])
        found[name] = Interval(float(value[0]), round(float(low), 12), round(float(high), 12))
    return found


def _ratios(table: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the figures of rows of hits, false alarms and misses [N, 3]; 0 where nothing is to be divided."""
    hits, wrong, missed = table.T
    wholes = {"precision": hits + wrong, "recall": hits + missed, "F1": hits + (wrong + missed) / 2.0}
    return {name: np.divide(hits, whole, out=np.zeros_like(hits), where=whole > 0) for name, whole in wholes.items()}


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + e^-x), also for large x of either sign."""
    power = np.exp(-np.abs(logits))
    result: NDArray[np.float64] = np.where(logits >= 0, 1.0 / (1.0 + power), power / (1.0 + power))
    return result
