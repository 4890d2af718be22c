"""Passages as sparse vectors: what BM25 gives each of their terms, of length 1; for cosines without a model.

BM25's own index is turned round once, into files that vanish with the process, so that a passage's terms are one read
away. A query's vector has its terms' idf. Queries, sources and candidates then have cosines in one space.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.segment import Segment, bigrams

POSTINGS_AT_ONCE = 2**20
DECIMALS = 9


class SparseIndex:
    """BM25's ranking of passages, and their cosines.

    Args:
        passages: positions in them are what everything here names.
        segment: cuts Chinese, Japanese and Korean into terms.
    """

    def __init__(self, passages: Sequence[str], segment: Segment = bigrams) -> None:
        self.bm25 = Bm25Retriever(passages, segment=segment)
        self._size = len(passages)
        starts, owners, scores = self.bm25.postings()
        frequencies = np.diff(starts)
        self._idf = np.log(1 + (self._size - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
        self._starts, self._terms, self._weights = _by_passage(starts, owners, scores, self._size)

    def search(self, query: str, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k best positions by BM25 and their scores; those that share no word with the query left out."""
        positions, scores = next(iter(self.bm25.search([query], k)))
        return positions[scores > 0], scores[scores > 0]

    def cosines(
        self, query: str, positions: NDArray[np.int64], source: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]:
        """Return cosines of passages to a query [n], to the passage ``source`` [n] (or None), to each other [n, n]."""
        asked, weights = np.unique(np.array(self.bm25.term_numbers(query), dtype=np.int64), return_counts=True)
        rows = [(asked, weights * self._idf[asked])] + [self._row(position) for position in positions.tolist()]
        rows += [self._row(source)] if source is not None else []
        terms = np.unique(np.concatenate([row for row, _ in rows])) if rows else np.zeros(0, dtype=np.int64)
        matrix = np.zeros((len(rows), len(terms)))
        for place, (row, values) in enumerate(rows):
            matrix[place, np.searchsorted(terms, row)] = values
        matrix /= np.maximum(np.sqrt((matrix * matrix).sum(axis=1, keepdims=True)), 1e-12)
        held = matrix[1 : len(positions) + 1]
        to_source = np.round(held @ matrix[-1], DECIMALS) if source is not None else None
        return np.round(held @ matrix[0], DECIMALS), to_source, np.round(held @ held.T, DECIMALS)

    def _row(self, position: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        start, stop = self._starts[position], self._starts[position + 1]
        return self._terms[start:stop].astype(np.int64), np.asarray(self._weights[start:stop])


def _by_passage(
    starts: NDArray[np.int64], owners: NDArray[np.int32], scores: NDArray[np.float32], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Turn lists by term into lists by passage, on disk; terms ascend within a passage."""
    counts = np.bincount(owners, minlength=size) if len(owners) else np.zeros(size, dtype=np.int64)
    begins = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    terms, weights = _scratch(len(owners), np.int32), _scratch(len(owners), np.float32)
    heads = begins[:-1].copy()
    for first in range(0, len(owners), POSTINGS_AT_ONCE):
        part = owners[first : first + POSTINGS_AT_ONCE]
        order = np.argsort(part, kind="stable")
        fresh = np.bincount(part, minlength=size)
        runs = np.cumsum(fresh) - fresh
        places = heads[part[order]] + np.arange(len(part)) - runs[part[order]]
        numbers = np.searchsorted(starts, np.arange(first, first + len(part)), side="right") - 1
        terms[places] = numbers[order]
        weights[places] = scores[first : first + POSTINGS_AT_ONCE][order]
        heads += fresh
    return begins, terms, weights


def _scratch(length: int, kind: Any) -> NDArray[Any]:
    if not length:
        return np.zeros(0, dtype=kind)
    with tempfile.TemporaryFile(prefix="sparse-") as file:
        return np.memmap(file, dtype=kind, mode="w+", shape=(length,))
