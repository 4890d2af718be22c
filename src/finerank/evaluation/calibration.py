"""What a score means, for people who cut by it: how often passages with such scores are relevant.

Source of the expected calibration error: Naeini et al. 2015 (bins of equal width); here bins hold equally many pairs,
since a reranker's scores crowd at both ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


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
    probabilities = _sigmoid(scores)
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


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + e^-x), also for large x of either sign."""
    power = np.exp(-np.abs(logits))
    result: NDArray[np.float64] = np.where(logits >= 0, 1.0 / (1.0 + power), power / (1.0 + power))
    return result
