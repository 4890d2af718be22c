"""What a query finds, with all cosines that the diverse retriever asks for: by an embedder's vectors, or by words.

A ``Pool`` is one query's most relevant passages in rank order. Any list of them follows from it: the plain one is its
beginning, a diverse one is picked from a longer beginning (``retrieval.diverse``).

By words, relevance is BM25 divided by the query's best score, so that the plain order is BM25's own, lies in [0, 1] as
cosines do, and the λ keep their meaning; likeness is the cosine of BM25's weights. Passages that share no word with the
query are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finerank.core.protocols import Encoder, Progress
from finerank.retrieval.dense import top_k
from finerank.retrieval.diverse import Weights, pick, rounded, unit
from finerank.retrieval.sparse import SparseIndex
from finerank.retrieval.vectors import cached_encode, release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]
    Exact = NDArray[np.float64]
    Ranked = tuple[Positions, NDArray[np.float32]]
    """Positions [n] and relevance [n], best first."""

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Pool:
    """One query's passages, best first.

    Attributes:
        positions: in the corpus [n]; the source document is none of them.
        relevance: [n]; cosines, or BM25 as a share of the best.
        to_source: cosines to the source document [n]; None where there is none.
        gram: cosines to each other [n, n].
    """

    positions: Positions
    relevance: NDArray[np.float32]
    to_source: Exact | None
    gram: Exact

    def __len__(self) -> int:
        return len(self.positions)

    def plain(self, k: int) -> list[int]:
        """Return the places [≤ k] of the most relevant."""
        return list(range(min(k, len(self))))

    def diverse(self, k: int, factor: int, given: Weights) -> list[int]:
        """Return the places [≤ k] that the diverse retriever picks from the ``factor`` · k most relevant."""
        n = k * factor
        to_source = None if self.to_source is None else self.to_source[:n]
        return list(pick(self.relevance[:n], to_source, self.gram[:n, :n], k, given)[0].tolist())

    def likeness(self, places: Sequence[int]) -> float | None:
        """Return the mean cosine of two different passages of a list; None for fewer than two."""
        if len(places) < 2:
            return None
        part = self.gram[np.ix_(places, places)]
        count = len(places)
        return float((part.sum() - np.trace(part)) / (count * (count - 1)))

    def nearness(self, places: Sequence[int]) -> float | None:
        """Return the mean cosine to the source document; None for no passage or no source."""
        if self.to_source is None or not len(places):
            return None
        return float(self.to_source[list(places)].mean())


class Space(Protocol):
    """Finds passages and compares them."""

    def search(self, queries: Sequence[str], sources: Sequence[int | None], breadth: int) -> Iterator[Ranked]:
        """Yield each query's ``breadth`` most relevant passages, its source (a position) left out."""
        ...

    def compare(self, query: str, positions: Positions, source: int | None) -> tuple[Exact | None, Exact]:
        """Return cosines of passages to the source [n], or None, and to each other [n, n]."""
        ...


def pools(space: Space, queries: Sequence[str], sources: Sequence[int | None], breadth: int) -> Iterator[Pool]:
    """Yield each query's pool."""
    for query, source, (positions, relevance) in zip(queries, sources, space.search(queries, sources, breadth)):
        yield Pool(positions, relevance, *space.compare(query, positions, source))


class VectorSpace:
    """An embedder's: all cosines come from its vectors.

    Args:
        passages: the corpus; read once, then known by its vectors.
        cache: folder of the vector cache, or None.
    """

    def __init__(
        self, encoder: Encoder, passages: Sequence[str], *, cache: Path | None = None, device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.cache, self.device = encoder, cache, device
        self.vectors = cached_encode(encoder, passages, "passage", cache, progress)

    def search(self, queries: Sequence[str], sources: Sequence[int | None], breadth: int) -> Iterator[Ranked]:
        """Yield each query's most relevant passages, by cosine."""
        asked = cached_encode(self.encoder, queries, "query", self.cache)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = asked[start : start + QUERIES_AT_ONCE]
            found = top_k(part, self.vectors, breadth + 1, cosine=True, device=self.device)
            for positions, scores, source in zip(*found, sources[start:]):
                kept = positions != (-1 if source is None else source)
                yield positions[kept][:breadth], scores[kept][:breadth]

    def compare(self, query: str, positions: Positions, source: int | None) -> tuple[Exact | None, Exact]:
        """Return the cosines of vectors."""
        found = unit(self.vectors[positions])
        to_source = None if source is None else rounded(found @ unit(self.vectors[source]))
        release(self.vectors)
        return to_source, rounded(found @ found.T)


class WordSpace:
    """By words alone: BM25 finds, the cosines of its weights compare.

    Args:
        index: of the corpus.
    """

    def __init__(self, index: SparseIndex) -> None:
        self.index = index

    def search(self, queries: Sequence[str], sources: Sequence[int | None], breadth: int) -> Iterator[Ranked]:
        """Yield each query's most relevant passages, by BM25 as a share of the best score."""
        for query, source in zip(queries, sources):
            positions, scores = self.index.search(query, breadth + 1)
            kept = positions != (-1 if source is None else source)
            positions, scores = positions[kept][:breadth], scores[kept][:breadth]
            yield positions, scores / scores[0] if len(scores) else scores

    def compare(self, query: str, positions: Positions, source: int | None) -> tuple[Exact | None, Exact]:
        """Return the cosines of BM25's weights."""
        _, to_source, gram = self.index.cosines(query, positions, source)
        return to_source, gram
