"""How an arm's scores are spread over relevant passages and over the others: does a training pull them apart?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finerank.core.runs import Qrels, Run

BINS = 40
MOST_QUERIES = 20_000
"""Queries that the shapes are taken from; of more, equally many between two."""
TAIL = 0.002
"""Share of the scores at each end that goes into the outermost bin: one wild score must not flatten all others."""


class Shape(NamedTuple):
    """Histograms over ``BINS`` equal bins of [low, high]; scores beyond the ends are in the outermost bins.

    Attributes:
        relevant, other: counts per bin.
        relevant_median, other_median: of the scores themselves.
        apart: the share of (relevant, other) pairs in which the relevant one has the higher bin; equal bins count half.
    """

    low: float
    high: float
    relevant: list[int]
    other: list[int]
    relevant_median: float
    other_median: float
    apart: float


def shape_of(run: Run, qrels: Qrels) -> Shape | None:
    """Return the shape of a run's scores, or None where one of the two kinds is missing."""
    queries = [query for query in qrels if run.get(query)]
    stride = -(-len(queries) // MOST_QUERIES) or 1
    relevant: list[float] = []
    other: list[float] = []
    for query in queries[::stride]:
        grades = qrels[query]
        for passage, score in run[query].items():
            (relevant if grades.get(passage, 0) > 0 else other).append(score)
    return shape(relevant, other)


def ends_of(scores: Sequence[float]) -> tuple[float, float]:
    """Return where an axis for these scores begins and ends; ``TAIL`` of them lie beyond each end."""
    low, high = (float(end) for end in np.quantile(np.asarray(scores, dtype=np.float64), [TAIL, 1 - TAIL]))
    return (low - 0.5, high + 0.5) if low == high else (low, high)


def shape(relevant: Sequence[float], other: Sequence[float], ends: tuple[float, float] | None = None) -> Shape | None:
    """Return the shape of two lists of scores, or None if one of them is empty.

    Args:
        ends: of the axis; ``ends_of`` all scores if None.

    >>> found = shape([2.0, 3.0], [0.0, 1.0])
    >>> found.apart, found.relevant_median, sum(found.other)
    (1.0, 2.5, 2)
    """
    if not len(relevant) or not len(other):
        return None
    both = [np.asarray(scores, dtype=np.float64) for scores in (relevant, other)]
    low, high = ends or ends_of([*relevant, *other])
    counts = [np.histogram(np.clip(scores, low, high), BINS, (low, high))[0] for scores in both]
    first, second = (float(np.median(scores)) for scores in both)
    return Shape(low, high, counts[0].tolist(), counts[1].tolist(), first, second, _apart(counts[0], counts[1]))


def to_mapping(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return plain JSON values."""
    return {
        name: {key: value if isinstance(value, list) else round(value, 6) for key, value in found._asdict().items()}
        for name, found in shapes.items()
    }


def _apart(relevant: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    below = np.cumsum(other) - other
    won = float((relevant * (below + other / 2)).sum())
    return won / (float(relevant.sum()) * float(other.sum()))
