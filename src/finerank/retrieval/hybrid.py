"""Reciprocal rank fusion of several retrievers: what ranks high on any side ranks high, scores need no common scale.

Cormack, Clarke and Büttcher (SIGIR 2009): ``score(d) = Σ_sides 1 / (k + rank(d))``, ranks counted from 1, k = 60. A
side gives its best ``window`` passages; one that it does not name adds nothing. Passages outside every window follow
in tiers: those in windows four times as deep, fused by their ranks there, then four times again. So a ranking is the
same however deep it is asked for, and reaches the whole pool where one side does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finerank.core.protocols import Retriever

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]

RRF_K = 60
WINDOW = 1000
WIDER = 4


@dataclass(frozen=True)
class Fused:
    """One query's fused ranking, best first.

    Attributes:
        positions, scores: pool positions [n] and fused scores [n]; scores fall within a tier.
        ranks: side -> 0-based rank [n] on that side, -1 where it stands outside the window and adds nothing.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: dict[str, NDArray[np.int64]]


class HybridRetriever:
    """Fuse named retrievers over one pool.

    Args:
        sides: name -> retriever; all rank the same pool. A side may name fewer passages than it is asked for.
        pool_size: passages in the pool.
        k: how little the first ranks differ: a larger one levels them.
        window: passages that each side gives to the first tier.
    """

    def __init__(self, sides: Mapping[str, Retriever], pool_size: int, k: float = RRF_K, window: int = WINDOW) -> None:
        self.sides = dict(sides)
        self.pool_size = pool_size
        self.k = k
        self.window = window

    def search(self, queries: Sequence[str], k: int) -> Iterator[Ranked]:
        """Yield, per query, pool positions [k'] and fused scores [k'], best first; k' = min(k, passages named)."""
        for found in self.fuse(queries, k):
            yield found.positions, found.scores

    def fuse(self, queries: Sequence[str], k: int) -> Iterator[Fused]:
        """Yield, per query, the best ``k`` passages with their rank on each side."""
        tiers = _tiers(self.window, k, self.pool_size)
        found = zip(*(side.search(queries, tiers[-1]) for side in self.sides.values()))
        for sides in found:
            yield fuse_ranks(dict(zip(self.sides, (positions for positions, _ in sides))), k, tiers, self.k)


def fuse_ranks(sides: Mapping[str, NDArray[np.int64]], depth: int, tiers: Sequence[int], k: float = RRF_K) -> Fused:
    """Fuse one query's lists of pool positions, best first; equal scores go to the earlier position.

    Args:
        sides: side -> positions, at least ``tiers[-1]`` of them unless the side has no more.
        depth: passages to return.
        tiers: growing depths of the windows, the last one as deep as the lists.
    """
    everything = np.unique(np.concatenate(list(sides.values())))
    table = np.stack([_ranks(everything, positions) for positions in sides.values()])
    best = np.where(table < 0, np.iinfo(np.int64).max, table).min(axis=0)
    tier = np.searchsorted(np.asarray(tiers), best, side="right")
    counted = (table >= 0) & (table < np.asarray(tiers)[tier])  # whatever depth was asked for
    scores = np.where(counted, 1.0 / (k + 1 + np.maximum(table, 0)), 0.0).sum(axis=0)
    order = np.lexsort((everything, -scores, tier))[:depth]
    ranks = np.where(counted, table, -1)[:, order]
    return Fused(everything[order], scores[order].astype(np.float32), dict(zip(sides, ranks)))


def _ranks(passages: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each of ``passages`` (sorted) in ``positions``, -1 where it is not there."""
    ranks = np.full(len(passages), -1, dtype=np.int64)
    ranks[np.searchsorted(passages, positions)] = np.arange(len(positions))
    return ranks


def _tiers(window: int, depth: int, pool_size: int) -> list[int]:
    """Return the depths of the windows that are needed for the best ``depth`` of a pool.

    >>> _tiers(100, 300, 10_000)
    [100, 400]
    """
    tiers = [window]
    while tiers[-1] < min(depth, pool_size):
        tiers.append(tiers[-1] * WIDER)
    return tiers
