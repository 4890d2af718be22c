"""The diverse retriever: relevant passages that are neither the source document again nor each other's copies.

Greedy maximal marginal relevance (Carbonell and Goldstein 1998) with a second penalty, on likeness to the source
document, as HopWeaver's (arXiv 2505.15087) retriever has it:

    score(d) = λ1 · cos(query, d) − λ2 · cos(d, source) − λ3 · max over the chosen s of cos(d, s)

The most relevant passages are the pool; from it the best one is taken, k times. One Gram matrix of the pool and a
running maximum make that O(k · n) behind the matrix product. The λ are divided by their sum; the maximum over nothing
is 0; equal scores go to the earlier rank, so that λ = (1, 0, 0) is the plain order.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from finerank.core.errors import UsageError
from finerank.retrieval.dense import POOL_BLOCK, SMALLEST_NORM, settle
from finerank.retrieval.vectors import release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Exact = NDArray[np.float64]
    Positions = NDArray[np.int64]
    Picked = tuple[Positions, Vectors]
    """Places or positions [m], and their scores [m] at the time they were picked, best first."""

POOL_FACTOR = 3
DECIMALS = 9
"""Decimals of a cosine: the last bits of a matrix product depend on its shape, and would order equal passages."""


class Weights(NamedTuple):
    """The λ, which add up to 1."""

    relevance: float
    source: float
    chosen: float


def weights(lambda1: float, lambda2: float, lambda3: float) -> Weights:
    """Divide the λ by their sum.

    >>> weights(2, 1, 1)
    Weights(relevance=0.5, source=0.25, chosen=0.25)

    Raises:
        UsageError: if one is negative or not finite, or all are 0.
    """
    given = {"--lambda1": lambda1, "--lambda2": lambda2, "--lambda3": lambda3}
    for flag, value in given.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{flag} must be a number of at least 0, got {value}")
    total = lambda1 + lambda2 + lambda3
    if not 0 < total < math.inf:
        raise UsageError(
            "--lambda1, --lambda2 and --lambda3 need a sum that is more than 0 and finite, "
            f"got {lambda1}, {lambda2} and {lambda3}",
            hint="--lambda1 0.7 --lambda2 0.1 --lambda3 0.2",
        )
    return Weights(lambda1 / total, lambda2 / total, lambda3 / total)


def diverse_select(
    query: Vectors, passages: Vectors, source: Vectors | None = None, *, k: int, lambda1: float, lambda2: float,
    lambda3: float, pool_factor: int = POOL_FACTOR, exclude: Collection[int] = (),
) -> Picked:  # fmt: skip
    """Choose k passages that answer the query, differ from the source and differ from each other.

    Args:
        query: [D]; any length, as for the other two: only directions count.
        passages: [N, D]; may be a memmap, of which one block at a time is touched.
        source: [D], the document that the query came from; None leaves its term out.
        lambda1, lambda2, lambda3: weights of relevance, of likeness to the source, of likeness to what is chosen.
        pool_factor: the pool is the ``pool_factor`` · k most relevant passages.
        exclude: positions that may not be chosen, such as the source document's own; they take no place in the pool.

    Returns:
        Positions [k'] and scores at the time of picking [k'], best first; k' = min(k, N − excluded).

    Four passages, worked by hand. Cosines to the query: .8, .8, .6, .6; to the source: .6, .6, 0, .8. With λ = (.5, .1,
    .4) the first scores are .40 − .06 = .34, .34, .30 and .30 − .08 = .22, so passage 0 is taken. Cosines to it: 1 (a
    copy), .48 and .96; so the next are .34 − .4 = −.06, .30 − .192 = .108 and .22 − .384 = −.164: passage 2 is taken.
    Passage 1 is still as near to passage 0 as it was, as is passage 3 (which is .36 near to passage 2): passage 1.

    >>> passages = np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [0.6, 0.0, 0.8], [0.6, 0.8, 0.0]], dtype=np.float32)
    >>> query, source = np.array([1.0, 0.0, 0.0], np.float32), np.array([0.0, 1.0, 0.0], np.float32)
    >>> positions, scores = diverse_select(query, passages, source, k=3, lambda1=0.5, lambda2=0.1, lambda3=0.4)
    >>> positions.tolist(), [round(float(score), 3) for score in scores]
    ([0, 2, 1], [0.34, 0.108, -0.06])

    Raises:
        UsageError: for impossible λ.
    """
    given = weights(lambda1, lambda2, lambda3)
    _check(query, passages, source, k, pool_factor)
    left_out = {int(position) for position in exclude}
    pool, relevance = most_relevant(query, passages, k * pool_factor, left_out)
    places, scores = diversify(relevance, np.asarray(passages[pool]), source, k, given)
    return pool[places], scores


def most_relevant(query: Vectors, passages: Vectors, k: int, exclude: Collection[int] = ()) -> Picked:
    """Return the exact k best positions by cosine, those to exclude left out, and the cosines."""
    found = settle(np.asarray(query, np.float32)[None], passages, k + len(exclude), True, partial(_nominate, passages))
    positions, scores = found[0][0], found[1][0]
    kept = ~np.isin(positions, list(exclude))
    return positions[kept][:k], scores[kept][:k]


def diversify(relevance: Vectors, vectors: Vectors, source: Vectors | None, k: int, given: Weights) -> Picked:
    """Choose k of a pool that is in rank order; return places in it and scores.

    Args:
        relevance: cosines to the query [n], best first.
        vectors: the pool's vectors [n, D].
        source: [D], or several [S, D], of which the one most like a passage counts.
    """
    found = unit(vectors)
    to_source = None if source is None else rounded(found @ unit(np.atleast_2d(source)).T).max(axis=-1)
    return pick(relevance, to_source, rounded(found @ found.T), k, given)


def pick(
    relevance: NDArray[np.floating], to_source: Exact | None, gram: Exact, k: int, given: Weights
) -> Picked:  # fmt: skip
    """Choose k of n passages by their cosines alone; return places and scores at the time of picking.

    Args:
        relevance: cosines to the query [n].
        to_source: cosines to the source [n]; None leaves the term out.
        gram: cosines to each other [n, n];.
    """
    fixed = given.relevance * relevance.astype(np.float64)
    if to_source is not None:
        fixed = fixed - given.source * to_source
    nearest: Exact | None = None
    places, scores, free = [], [], np.ones(len(fixed), dtype=bool)
    for _ in range(min(k, len(fixed))):
        score = fixed if nearest is None else fixed - given.chosen * nearest
        place = int(np.argmax(np.where(free, score, -np.inf)))  # the first of equals
        places.append(place)
        scores.append(score[place])
        free[place] = False
        nearest = gram[place] if nearest is None else np.maximum(nearest, gram[place])
    return np.array(places, dtype=np.int64), np.array(scores, dtype=np.float32)


def _nominate(passages: Vectors, queries: Vectors, depth: int) -> tuple[Positions, Vectors, float]:
    """Search block by block in float32 products: positions [1, depth], the lowest score among them [1], and 1."""
    query = unit(queries[0]).astype(np.float32)
    scores, positions = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    for start in range(0, len(passages), POOL_BLOCK):
        block = np.asarray(passages[start : start + POOL_BLOCK], dtype=np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        scores = np.concatenate([scores, (block @ query) / np.maximum(norms, SMALLEST_NORM)])
        positions = np.concatenate([positions, np.arange(start, start + len(block))])
        if len(scores) > depth:
            kept = np.argpartition(scores, len(scores) - depth)[-depth:]
            scores, positions = scores[kept], positions[kept]
        release(passages)
    return positions[None], np.array([scores.min()]), 1.0


def unit(vectors: NDArray[np.floating]) -> Exact:
    """Bring vectors [..., D] to unit length, in float64; a zero vector stays one."""
    exact = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt((exact * exact).sum(axis=-1, keepdims=True))
    result: Exact = exact / np.maximum(norms, SMALLEST_NORM)
    return result


def rounded(cosines: Exact) -> Exact:
    """Round off what depends on the shape of a matrix product."""
    result: Exact = np.round(cosines, DECIMALS)
    return result


def _check(query: Vectors, passages: Vectors, source: Vectors | None, k: int, pool_factor: int) -> None:
    if passages.ndim != 2 or query.shape != passages.shape[1:]:
        raise ValueError(f"expected a query [D] and passages [N, D], got {query.shape} and {passages.shape}")
    if source is not None and source.shape != query.shape:
        raise ValueError(f"the source must be as long as the query, got {source.shape} and {query.shape}")
    if k < 0 or pool_factor < 1:
        raise ValueError(f"k must be at least 0 and pool_factor at least 1, got {k} and {pool_factor}")
    for name, vector in (("query", query), ("source", source)):
        if vector is not None and not np.isfinite(vector).all():
            raise ValueError(f"the {name} vector holds a number that is not finite")
