"""Cosines between queries and passages while mining: from the whole pool's vectors, the candidates' alone, or none.

Mining works through rows in blocks: ``begin`` says whose texts a block is about, ``add`` which pool positions it has
come upon; ``own`` and ``at`` give cosines, rounded to ``DECIMALS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finerank.core.protocols import Encoder, Progress, Side
from finerank.core.records import Row
from finerank.retrieval.dense import QUERY_BLOCK, exact_scores, top_k
from finerank.retrieval.vectors import cached_encode, release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from finerank.retrieval.ann import FaissSearcher

    Vectors = NDArray[np.float32]
    Positions = NDArray[np.int64]

DECIMALS = 6
"""Cosines are compared and written with this many decimals, so that the file shows what was decided on."""
Meter = Callable[[int, str], AbstractContextManager[Progress]]
"""``progress`` of data.console: total and label -> a context that gives ``update(n)``."""
LABELS = {"query": "encoding queries", "passage": "encoding passages"}


class Cosines(Protocol):
    """What mining asks of similarities; all lists are empty where there is no embedder."""

    def begin(self, rows: Sequence[Row], keep_negatives: bool) -> None:
        """Get ready for the queries and own passages of a block of rows."""
        ...

    def add(self, positions: Positions) -> None:
        """Get ready for passages of the pool."""
        ...

    def own(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the cosines of a row's own passages."""
        ...

    def at(self, query: str, positions: Positions) -> list[float]:
        """Return the cosines of passages of the pool."""
        ...

    def vectors_of(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors [n, D] of a row's own passages."""
        ...

    def vectors_at(self, positions: Positions) -> Vectors:
        """Return the vectors [n, D] of passages of the pool."""
        ...


class NoCosines:
    """Stands in where there is no embedder."""

    def begin(self, rows: Sequence[Row], keep_negatives: bool) -> None:
        """Need nothing."""

    def add(self, positions: Positions) -> None:
        """Need nothing."""

    def own(self, query: str, texts: Sequence[str]) -> list[float]:
        return []

    def at(self, query: str, positions: Positions) -> list[float]:
        return []

    def vectors_of(self, texts: Sequence[str]) -> Vectors:
        return np.empty((len(texts), 0), dtype=np.float32)

    def vectors_at(self, positions: Positions) -> Vectors:
        return np.empty((len(positions), 0), dtype=np.float32)


class PoolCosines:
    """Holds the vectors of queries, pool and the rows' own passages; also searches them (a ``Retriever``).

    Args:
        rows: all rows.
        pool: distinct passages; read by position, never held (``retrieval.pool``).
        encoder: gives the vectors; each distinct text is encoded once per side.
        cosine: search by cosine; False by inner product.
        meter: opens a progress report for each pass over texts.

    Attributes:
        index: searches the pool's vectors instead of comparing every one, where it is set.
    """

    def __init__(
        self, rows: Sequence[Row], pool: Sequence[str], encoder: Encoder, cache: Path | None, meter: Meter, *,
        keep_negatives: bool = False, cosine: bool = True, device: str = "cpu", query_block: int = QUERY_BLOCK,
    ) -> None:  # fmt: skip
        self.cosine, self.device, self.query_block = cosine, device, query_block
        self.index: FaissSearcher | None = None
        self._places, outside = _places(rows, pool, keep_negatives)
        self._rows_of_queries = numbered(row.query for row in rows)
        self.vectors = _encode(encoder, pool, "passage", cache, meter)
        self._outside = _encode(encoder, outside, "passage", cache, meter)
        self._queries = _encode(encoder, list(self._rows_of_queries), "query", cache, meter)

    def begin(self, rows: Sequence[Row], keep_negatives: bool) -> None:
        """Everything is ready."""

    def add(self, positions: Positions) -> None:
        """Everything is ready."""

    def own(self, query: str, texts: Sequence[str]) -> list[float]:
        return rounded(exact_scores(self.query(query), self.vectors_of(texts), cosine=True)) if texts else []

    def at(self, query: str, positions: Positions) -> list[float]:
        return rounded(exact_scores(self.query(query), self.vectors_at(positions), cosine=True))

    def vectors_of(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._passage(self._places[text]) for text in texts])

    def vectors_at(self, positions: Positions) -> Vectors:
        found: Vectors = self.vectors[positions]
        release(self.vectors)
        return found

    def query(self, text: str) -> Vectors:
        """Return the vector [D] of a row's query."""
        vector: Vectors = self._queries[self._rows_of_queries[text]]
        return vector

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[Positions, NDArray[np.float32]]]:
        """Yield, per query of the rows, pool positions [k'] and scores [k'], best first; k' = min(k, pool size)."""
        if queries:
            vectors = self._queries[[self._rows_of_queries[query] for query in queries]]
            yield from zip(*(self._search(vectors, k) if self.index is None else self.index.search(vectors, k)))

    def _search(self, vectors: Vectors, k: int) -> tuple[Positions, NDArray[np.float32]]:
        """Compare queries [Q, D] with the whole pool."""
        return top_k(vectors, self.vectors, k, cosine=self.cosine, device=self.device, query_block=self.query_block)

    def _passage(self, place: int) -> Vectors:
        inside = len(self.vectors)
        vector: Vectors = self.vectors[place] if place < inside else self._outside[place - inside]
        return vector


class CandidateCosines:
    """Encodes only what a block of rows needs, and forgets it with the next: for pools ranked without vectors.

    A block's vectors depend on the block (and the cache) alone, so that a run that goes on finds the same ones.
    """

    def __init__(self, pool: Sequence[str], encoder: Encoder, cache: Path | None, meter: Meter) -> None:
        self.pool, self.encoder, self.cache, self.meter = pool, encoder, cache, meter
        self._queries: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._parts: list[tuple[Positions, Vectors]] = []

    def begin(self, rows: Sequence[Row], keep_negatives: bool) -> None:
        self._parts = []
        self._queries = numbered(row.query for row in rows)
        self._texts = numbered(text for row in rows for text in own_passages(row, keep_negatives))
        self._query_vectors = _encode(self.encoder, list(self._queries), "query", self.cache, self.meter)
        self._text_vectors = _encode(self.encoder, list(self._texts), "passage", self.cache, self.meter)

    def add(self, positions: Positions) -> None:
        new = np.unique(positions)
        for known, _ in self._parts:
            new = np.setdiff1d(new, known, assume_unique=True)
        texts = [self.pool[position] for position in new.tolist()]
        self._parts.append((new, _encode(self.encoder, texts, "passage", self.cache, self.meter)))

    def own(self, query: str, texts: Sequence[str]) -> list[float]:
        return self._to(query, self.vectors_of(texts))

    def at(self, query: str, positions: Positions) -> list[float]:
        return self._to(query, self.vectors_at(positions))

    def vectors_of(self, texts: Sequence[str]) -> Vectors:
        found: Vectors = self._text_vectors[[self._texts[text] for text in texts]]
        return found

    def vectors_at(self, positions: Positions) -> Vectors:
        vectors = np.empty((len(positions), self.encoder.dimension), dtype=np.float32)
        for known, part in self._parts:  # each sorted; a position stands in one of them
            if len(known):
                places = np.minimum(np.searchsorted(known, positions), len(known) - 1)
                found = known[places] == positions
                vectors[found] = part[places[found]]
        return vectors

    def _to(self, query: str, vectors: Vectors) -> list[float]:
        return rounded(exact_scores(self._query_vectors[self._queries[query]], vectors, cosine=True))


def own_passages(row: Row, keep_negatives: bool) -> tuple[str, ...]:
    """Return the passages of a row that need a cosine."""
    return (*row.positives, *(row.negatives if keep_negatives else ()))


def numbered(texts: Iterable[str]) -> dict[str, int]:
    """Number the distinct texts in first-seen order."""
    return {text: position for position, text in enumerate(dict.fromkeys(texts))}


def rounded(scores: NDArray[np.float32]) -> list[float]:
    """Return scores as Python's own numbers with ``DECIMALS`` decimals."""
    scale = 10.0**DECIMALS
    values: list[float] = (np.rint(scores.astype(np.float64) * scale) / scale + 0.0).tolist()
    return values


def _places(rows: Sequence[Row], pool: Sequence[str], keep_negatives: bool) -> tuple[dict[str, int], list[str]]:
    """Return where the passages of the rows themselves have their vectors, and those that the pool lacks.

    A place below the pool's size is a place in the pool, the others follow it.
    """
    places = {text: -1 for row in rows for text in own_passages(row, keep_negatives)}
    for position, text in enumerate(pool):
        if text in places:
            places[text] = position
    outside = [text for text, position in places.items() if position < 0]
    return places | {text: len(pool) + place for place, text in enumerate(outside)}, outside


def _encode(encoder: Encoder, texts: Sequence[str], side: Side, cache: Path | None, meter: Meter) -> Vectors:
    if not texts:
        return np.empty((0, encoder.dimension), dtype=np.float32)
    with meter(len(texts), LABELS[side]) as update:
        return cached_encode(encoder, texts, side, cache, update)
