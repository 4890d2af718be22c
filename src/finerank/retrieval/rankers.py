"""The pool as each query sees it, by vectors, by words or by both: retrievers in, ``Ranking`` out.

A ranking by words ends where no word is shared. What lies behind is no rank at all, so nothing of it is in any range;
``--when_short pad`` may still draw from it, at random, lest the pool's first passages pad every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finerank.core.protocols import Retriever
from finerank.core.seeding import stream
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.cosines import Cosines, PoolCosines, rounded
from finerank.retrieval.hybrid import RRF_K, HybridRetriever
from finerank.retrieval.negatives import Ranking
from finerank.retrieval.segment import segment_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

DENSE, BM25 = "dense", "bm25"


def make_ranker(
    kind: str, cosines: Cosines, pool: Sequence[str], *, seed: int, segmenter: str = "bigrams", k: float = RRF_K,
    cosine: bool = True,
) -> Ranker:  # fmt: skip
    """Return the ranker of ``--retriever``.

    Args:
        cosines: the pool's vectors (``PoolCosines``) unless ``kind`` is ``bm25``.
        segmenter: name of ``retrieval.segment``, resolved.
        k: constant of the fusion.
        cosine: vectors are compared by cosine.
    """
    if kind == BM25:
        return SparseRanker(_words(pool, segmenter), cosines, len(pool), seed)
    if not isinstance(cosines, PoolCosines):
        raise ValueError(f"{kind} needs the vectors of the pool")
    if kind == DENSE:
        return DenseRanker(cosines, cosines, exact=cosine)
    return HybridRanker(HybridRetriever({DENSE: cosines, BM25: _words(pool, segmenter)}, len(pool), k), cosines)


def _words(pool: Sequence[str], segmenter: str) -> Matches:
    return Matches(Bm25Retriever(pool, segment=segment_by(segmenter)))


class Ranker(Protocol):
    """Ranks the pool for queries."""

    def rank(self, queries: Sequence[str], depth: int) -> list[Ranking]:
        """Return each query's best ``depth`` passages, or the whole pool if it is smaller."""
        ...


class DenseRanker:
    """Rank by vectors.

    Args:
        exact: the retriever's scores are exact cosines; otherwise these are computed for what it finds.
    """

    def __init__(self, retriever: Retriever, cosines: Cosines, *, exact: bool) -> None:
        self.retriever, self.cosines, self.exact = retriever, cosines, exact

    def rank(self, queries: Sequence[str], depth: int) -> list[Ranking]:
        return [
            Ranking(positions.tolist(), rounded(scores) if self.exact else self.cosines.at(query, positions))
            for query, (positions, scores) in zip(queries, self.retriever.search(queries, depth))
        ]


class SparseRanker:
    """Rank by words; behind the last passage that shares one, a draw from the others fills up to ``depth``."""

    def __init__(self, retriever: Retriever, cosines: Cosines, pool_size: int, seed: int) -> None:
        self.retriever, self.cosines, self.pool_size, self.seed = retriever, cosines, pool_size, seed

    def rank(self, queries: Sequence[str], depth: int) -> list[Ranking]:
        found = [positions for positions, _ in self.retriever.search(queries, depth)]
        drawn = [self._draw(query, positions, depth) for query, positions in zip(queries, found)]
        everything = [np.concatenate(parts) for parts in zip(found, drawn)]
        self.cosines.add(np.concatenate(everything))
        return [
            Ranking(
                positions.tolist(),
                self.cosines.at(query, positions),
                retrieved=len(ranked),
                ranks={BM25: [*range(len(ranked)), *[None] * len(rest)]},
            )
            for query, positions, ranked, rest in zip(queries, everything, found, drawn)
        ]

    def _draw(self, query: str, ranked: Positions, depth: int) -> Positions:
        """Return positions that the ranking lacks, as many as it lacks; the longer draw is the same for each query."""
        lacking = min(depth, self.pool_size) - len(ranked)
        if lacking <= 0:
            return np.empty(0, dtype=np.int64)
        taken = set(ranked.tolist())
        draw = stream(self.seed, "mine", "unranked", query).sample(range(self.pool_size), lacking + len(taken))
        return np.array([position for position in draw if position not in taken][:lacking], dtype=np.int64)


class HybridRanker:
    """Rank by several retrievers' fused ranks, and say each one's."""

    def __init__(self, retriever: HybridRetriever, cosines: Cosines) -> None:
        self.retriever, self.cosines = retriever, cosines

    def rank(self, queries: Sequence[str], depth: int) -> list[Ranking]:
        return [
            Ranking(
                found.positions.tolist(),
                self.cosines.at(query, found.positions),
                ranks={
                    side: [None if rank < 0 else rank for rank in ranks.tolist()] for side, ranks in found.ranks.items()
                },
            )
            for query, found in zip(queries, self.retriever.fuse(queries, depth))
        ]


class Matches:
    """A retriever by words that stops where its scores are zero."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[Positions, NDArray[np.float32]]]:
        """Yield, per query, the positions and scores of passages that share a term with it, at most ``k``."""
        for positions, scores in self.retriever.search(queries, k):
            count = int((scores > 0).sum())
            yield positions[:count], scores[:count]
