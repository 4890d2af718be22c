"""Search through faiss: ``flat`` (exact), ``ivfpq`` (compressed, a few bytes a passage), ``hnsw`` (a graph in memory).

An index only nominates. Nominees are scored again in float64 from the vectors themselves, so that scores are the true
cosines or inner products whatever the index; an approximate one may miss passages, never misjudge them.

* ``flat`` searches block by block and deepens as ``dense.top_k`` does: the same result, bit for bit.
* ``ivfpq`` reads the vectors in blocks and holds their codes: about D / 8 + 8 bytes a passage.
* ``hnsw`` holds all vectors and their links in memory: 4 D + 270 bytes a passage.

Where an index is too small to train, where a query wants a large share of the pool, and for queries for which the
index finds fewer than asked, the search is exact. Building takes one thread, on which faiss gives the same index each
time; searching takes all, one query on each, and the products that choose a query's lists do not depend on the others.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finerank.core.errors import UserError
from finerank.core.protocols import Progress
from finerank.core.seeding import stream_seed
from finerank.retrieval.dense import NOMINEES_AT_ONCE, POOL_BLOCK, SLACK, SMALLEST_NORM, best, settle, top_k
from finerank.retrieval.vectors import release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from finerank.retrieval.dense import Nominees, Vectors

    Found = tuple[NDArray[np.int64], NDArray[np.float32]]

Kind = Literal["flat", "ivfpq", "hnsw"]
ADD_BLOCK = 8192
PER_CENTROID = 39
"""Training vectors that k-means wants for each centroid; faiss warns below."""
CODE_BITS = 8
SMALLEST_TRAINED = PER_CENTROID * 2**CODE_BITS
MOST_TRAINED = 2**18
ROUNDS = 10
PER_CODE = 8
PROBED_SHARE = 8
FEWEST_PROBED = 32
REFINED = 4
LINKS = 32
BUILD_WIDTH = 80
FEWEST_VISITED = 128
MOST_OF_POOL = 0.25


class FaissSearcher:
    """Vectors [N, D] made searchable.

    Args:
        vectors: may be a memmap; read in blocks.
        kind: which index.
        cosine: compare directions; False compares by inner product.
        seed: of the training sample.
        progress: told of every vector added.

    Attributes:
        exact: whether every search is exact, be it by choice or because the pool is small.
        searched_exactly: queries that an approximate index could not serve.

    Raises:
        UserError: if faiss is not installed.
    """

    def __init__(
        self, vectors: Vectors, kind: Kind, *, cosine: bool, seed: int, progress: Progress | None = None
    ) -> None:
        self.vectors = vectors
        self.cosine = cosine
        self.faiss = load_faiss()
        self.exact = kind == "flat" or len(vectors) < SMALLEST_TRAINED
        self.searched_exactly = 0
        self.index: Any = None
        if not self.exact:
            with _threads(self.faiss, 1):
                self.index = self._ivfpq(seed) if kind == "ivfpq" else self._hnsw()
                self._add(progress)

    def search(self, queries: Vectors, k: int) -> Found:
        """Return the best passages found: positions [Q, k'] and exact scores [Q, k'], k' = min(k, N), best first."""
        k = min(k, len(self.vectors))
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        if self.exact or REFINED * (k + SLACK) > MOST_OF_POOL * len(self.vectors):
            return settle(asked, self.vectors, k, self.cosine, self._nominate_flat)
        positions = np.empty((len(asked), k), dtype=np.int64)
        scores = np.empty((len(asked), k), dtype=np.float32)
        at_once = max(1, NOMINEES_AT_ONCE // (REFINED * (k + SLACK)))
        for start in range(0, len(asked), at_once):
            part = slice(start, start + at_once)
            positions[part], scores[part] = self._approximate(asked[part], k)
        return positions, scores

    def _approximate(self, queries: Vectors, k: int) -> Found:
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        for row, nominees in enumerate(self._nominate(_directions(queries) if self.cosine else queries, k)):
            found = nominees[nominees >= 0]
            if len(found) >= k:
                positions[row], scores[row] = best(queries[row], self.vectors, found, k, self.cosine)
            else:
                self.searched_exactly += 1
                exact = top_k(queries[row : row + 1], self.vectors, k, cosine=self.cosine)
                positions[row], scores[row] = exact[0][0], exact[1][0]
        return positions, scores

    def _nominate(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        """Return positions [Q, ≥ k], -1 where the index has no more."""
        faiss = self.faiss
        if isinstance(self.index, faiss.IndexIVFPQ):
            wanted = REFINED * k + SLACK
            lists = self.index.nlist
            enough = math.ceil(2 * wanted * lists / len(self.vectors))
            chosen = faiss.SearchParametersIVF(nprobe=min(lists, max(FEWEST_PROBED, lists // PROBED_SHARE, enough)))
        else:
            wanted = k + SLACK
            chosen = faiss.SearchParametersHNSW(efSearch=max(FEWEST_VISITED, 2 * wanted))
        with _one_by_one(faiss):
            positions: NDArray[np.int64] = self.index.search(queries, wanted, params=chosen)[1]
        return positions

    def _nominate_flat(self, queries: Vectors, depth: int) -> Nominees:
        """Search all vectors block by block in float32."""
        asked = _directions(queries) if self.cosine else queries
        scores = np.empty((len(asked), 0), dtype=np.float32)
        positions = np.empty((len(asked), 0), dtype=np.int64)
        largest = 0.0
        for start, block in self._blocks(POOL_BLOCK):
            largest = max(largest, float(np.linalg.norm(block, axis=1).max()))
            near, rows = self.faiss.knn(asked, block, min(depth, len(block)), self.faiss.METRIC_INNER_PRODUCT)
            scores, positions = np.hstack([scores, near]), np.hstack([positions, rows + start])
            if scores.shape[1] > depth:
                kept = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
                scores, positions = np.take_along_axis(scores, kept, 1), np.take_along_axis(positions, kept, 1)
        return positions, scores.min(axis=1), largest

    def _ivfpq(self, seed: int) -> Any:
        size, dimension = self.vectors.shape
        sample = self._sample(min(size, MOST_TRAINED), seed)
        lists = max(1, min(round(2 * math.sqrt(size)), len(sample) // PER_CENTROID))
        quantizer = self.faiss.IndexFlatIP(dimension)
        codes = dimension // _values_per_code(dimension)
        inner = self.faiss.METRIC_INNER_PRODUCT
        index = self.faiss.IndexIVFPQ(quantizer, dimension, lists, codes, CODE_BITS, inner)
        index.cp.niter = index.pq.cp.niter = ROUNDS
        index.pq.cp.max_points_per_centroid = 2 * PER_CENTROID
        index.train(sample)
        return index

    def _hnsw(self) -> Any:
        index = self.faiss.IndexHNSWFlat(self.vectors.shape[1], LINKS, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_WIDTH
        return index

    def _sample(self, count: int, seed: int) -> Vectors:
        """Draw training vectors [count, D], in pool order."""
        drawn = np.random.default_rng(stream_seed(seed, "index")).choice(len(self.vectors), count, replace=False)
        drawn.sort()
        sample = np.empty((count, self.vectors.shape[1]), dtype=np.float32)
        for start in range(0, count, ADD_BLOCK):
            sample[start : start + ADD_BLOCK] = self._read(drawn[start : start + ADD_BLOCK])
        return sample

    def _add(self, progress: Progress | None) -> None:
        for _, block in self._blocks(ADD_BLOCK):
            self.index.add(block)
            if progress is not None:
                progress(len(block))

    def _blocks(self, size: int) -> Iterator[tuple[int, Vectors]]:
        for start in range(0, len(self.vectors), size):
            yield start, self._read(slice(start, start + size))

    def _read(self, which: slice | NDArray[np.int64]) -> Vectors:
        block = np.array(self.vectors[which], dtype=np.float32)
        release(self.vectors)
        return _directions(block) if self.cosine else block


def load_faiss() -> Any:
    """Import faiss.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            f"--index needs faiss, which cannot be imported here ({error})", hint='pip install "finerank[faiss]"'
        ) from error


def _directions(vectors: Vectors) -> Vectors:
    """Bring vectors [n, D] to unit length; zero ones stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: Vectors = vectors / np.maximum(lengths, np.float32(SMALLEST_NORM))
    return directions


def _values_per_code(dimension: int) -> int:
    """Return how many of a vector's values share a code: the smallest divisor of D that is at least PER_CODE."""
    return next((size for size in range(PER_CODE, dimension) if dimension % size == 0), dimension)


@contextmanager
def _threads(faiss: Any, count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _one_by_one(faiss: Any) -> Iterator[None]:
    """Have faiss compare each query with the lists on its own: a matrix product differs with its shape."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 2**30
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
