"""Candidates for queries: the diverse retriever over an embedder's vectors, or over words where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finerank.generation.queries import GeneratedQuery
from finerank.retrieval.diverse import POOL_FACTOR, Weights, diversify, most_relevant, pick
from finerank.retrieval.segment import Segment, bigrams
from finerank.retrieval.sparse import SparseIndex
from finerank.retrieval.vectors import cached_encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from finerank.core.protocols import Encoder, Progress

    Positions = NDArray[np.int64]

DEPTH = 100
"""Ranks of the plain ranking that are looked at: for the way back to the source, and for negatives further down."""


@dataclass(frozen=True)
class Found:
    """What one query finds.

    Attributes:
        positions: the diverse retriever's choice, in its order, without the source [k'].
        scores: its scores at the time of picking [k'].
        ranking: the plain ranking, the source in it where it belongs [depth'].
        similarities: position -> cosine to the query, of all in the pool.
    """

    positions: list[int]
    scores: list[float]
    ranking: list[int]
    similarities: dict[int, float]

    def rank_of(self, number: int) -> int | None:
        """Return the 0-based rank of a document in the plain ranking, or None beyond its depth."""
        return self.ranking.index(number) if number in self.ranking else None


class Candidates(Protocol):
    """Finds documents for queries."""

    def find(self, queries: Sequence[GeneratedQuery], k: int, weights: Weights, pool_factor: int) -> list[Found]:
        """Return what each query finds; its source is no candidate."""
        ...


class SparseCandidates:
    """Words: BM25 finds the pool, cosines of its weights order it.

    Args:
        passages: the documents.
        segment: cuts Chinese into terms.
    """

    def __init__(self, passages: Sequence[str], segment: Segment = bigrams) -> None:
        self.index = SparseIndex(passages, segment)

    def find(
        self, queries: Sequence[GeneratedQuery], k: int, weights: Weights, pool_factor: int = POOL_FACTOR
    ) -> list[Found]:
        """Return what each query finds."""
        return [self._one(query, k, weights, k * pool_factor) for query in queries]

    def _one(self, query: GeneratedQuery, k: int, weights: Weights, wanted: int) -> Found:
        ranking, _ = self.index.search(query.text, max(DEPTH, wanted + 1))
        pool = ranking[ranking != query.source][:wanted]
        if not len(pool):
            return Found([], [], ranking.tolist(), {})
        relevance, to_source, gram = self.index.cosines(query.text, pool, query.source)
        order = np.lexsort((np.arange(len(pool)), -relevance))
        pool, relevance, gram = pool[order], relevance[order], gram[np.ix_(order, order)]
        places, scores = pick(relevance, None if to_source is None else to_source[order], gram, k, weights)
        similar = dict(zip(pool.tolist(), relevance.tolist()))
        return Found(pool[places].tolist(), scores.tolist(), ranking.tolist(), similar)


class DenseCandidates:
    """An embedder's vectors, from the cache where they stand there."""

    def __init__(
        self, encoder: Encoder, passages: Sequence[str], cache: Path | None, progress: Progress | None = None
    ) -> None:
        self.encoder = encoder
        self.cache = cache
        self.vectors = cached_encode(encoder, passages, "passage", cache, progress)

    def find(
        self, queries: Sequence[GeneratedQuery], k: int, weights: Weights, pool_factor: int = POOL_FACTOR
    ) -> list[Found]:
        """Return what each query finds."""
        asked = cached_encode(self.encoder, [query.text for query in queries], "query", self.cache)
        return [self._one(query, vector, k, weights, k * pool_factor) for query, vector in zip(queries, asked)]

    def _one(self, query: GeneratedQuery, vector: NDArray[np.float32], k: int, weights: Weights, wanted: int) -> Found:
        ranking, cosines = most_relevant(vector, self.vectors, min(len(self.vectors), max(DEPTH, wanted + 1)))
        free = ranking != query.source
        pool, relevance = ranking[free][:wanted], cosines[free][:wanted]
        if not len(pool):
            return Found([], [], ranking.tolist(), {})
        source = np.asarray(self.vectors[query.source])
        places, scores = diversify(relevance, np.asarray(self.vectors[pool]), source, k, weights)
        return Found(
            pool[places].tolist(), scores.tolist(), ranking.tolist(), dict(zip(ranking.tolist(), cosines.tolist()))
        )
