"""Exact search by vectors: blockwise matrix products, a running top, memory that does not grow with the pool.

The result is a function of the vectors alone. A float32 product differs in its last bits with the block's shape and
the device, which would reorder near-ties; so the product only nominates (k plus some slack), the nominees are
scored again in float64 with a fixed order of summation, and a query is searched deeper until no passage outside the
nominees can belong to its top k. Ties go to the lower pool position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finerank.core.errors import UserError
from finerank.core.protocols import Encoder, Progress
from finerank.retrieval.vectors import cached_encode, release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Nominees = tuple[NDArray[np.int64], NDArray[np.float32], float]
    """Positions [Q, depth], each query's lowest score among them [Q], the largest norm of a passage."""

QUERY_BLOCK = 64
POOL_BLOCK = 32_768
QUERIES_AT_ONCE = 1024
SLACK = 32
NOMINEES_AT_ONCE = 2**21
GATHERED_AT_ONCE = 64
UNIT_ROUNDOFF = 2.0**-24
SMALLEST_NORM = 1e-12


class DenseRetriever:
    """Rank a fixed pool by an encoder's vectors.

    Args:
        encoder: gives the vectors.
        pool: passages; results name their positions.
        cache: folder of the vector cache, or None to encode anew.
        cosine: compare directions; False compares by inner product, as models trained without normalisation need.
        device: where the products run (``cpu``, ``cuda``).
        query_block: queries per matrix product; speed and memory only.
    """

    def __init__(
        self, encoder: Encoder, pool: Sequence[str], *, cache: Path | None = None, cosine: bool = True,
        device: str = "cpu", query_block: int = QUERY_BLOCK, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        if not pool:
            raise UserError("the pool holds no passage, so there is nothing to search")
        self.encoder = encoder
        self.cache = cache
        self.cosine = cosine
        self.device = device
        self.query_block = query_block
        self.vectors = cached_encode(encoder, pool, "passage", cache, progress)

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield, per query, pool positions [k'] and scores [k'], best first; k' = min(k, pool size)."""
        vectors = cached_encode(self.encoder, queries, "query", self.cache)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = vectors[start : start + QUERIES_AT_ONCE]
            yield from zip(
                *top_k(part, self.vectors, k, cosine=self.cosine, device=self.device, query_block=self.query_block)
            )


def top_k(
    queries: Vectors, pool: Vectors, k: int, *, cosine: bool = False, device: str = "cpu",
    query_block: int = QUERY_BLOCK, pool_block: int = POOL_BLOCK,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
    """Return the exact k best passages of each query: positions [Q, k'] and scores [Q, k'], k' = min(k, N).

    Args:
        queries: [Q, D].
        pool: [N, D]; may be a memmap, of which one block at a time is touched.
        cosine: score by cosine instead of inner product.
        query_block, pool_block: shape of one matrix product; they never change the result.
    """

    def nominate(asked: Vectors, depth: int) -> Nominees:
        return _nominate(asked, pool, depth, cosine, device, query_block, pool_block)

    return settle(queries, pool, k, cosine, nominate)


def settle(
    queries: Vectors, pool: Vectors, k: int, cosine: bool, nominate: Callable[[Vectors, int], Nominees]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return ``top_k`` by means of a float32 search, deeper until no rounding error can matter.

    Args:
        nominate: queries [Q, D] and a depth -> their best passages by float32 products.
    """
    k = min(k, len(pool))
    positions = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    left = np.arange(len(queries))
    depth = min(k + SLACK, len(pool))
    while len(left) and k:
        unsettled = []
        at_once = max(1, NOMINEES_AT_ONCE // depth)
        for part in (left[start : start + at_once] for start in range(0, len(left), at_once)):
            asked = np.asarray(queries[part], dtype=np.float32)
            nominees, bound, largest = nominate(asked, depth)
            for index, query, candidates, last in zip(part, asked, nominees, bound):
                positions[index], scores[index] = best(query, pool, candidates, k, cosine)
                if depth < len(pool) and last + _error(query, largest, cosine) >= scores[index, -1]:
                    unsettled.append(index)
        left = np.array(unsettled, dtype=np.int64)
        depth = min(depth * 4, len(pool))
    return positions, scores


def best(
    query: Vectors, pool: Vectors, candidates: NDArray[np.int64], k: int, cosine: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the positions [k] and exact scores [k] of the k best of some candidates; ties to the lower position."""
    exact = np.concatenate(
        [
            exact_scores(query, pool[candidates[start : start + GATHERED_AT_ONCE]], cosine=cosine)
            for start in range(0, len(candidates), GATHERED_AT_ONCE)
        ]
    )
    release(pool)
    order = np.lexsort((candidates, -exact))[:k]
    return candidates[order], exact[order]


def exact_scores(query: Vectors, passages: Vectors, *, cosine: bool) -> NDArray[np.float32]:
    """Score passages [n, D] against a query [D] in float64, each one's sum in a fixed order; returns float32 [n]."""
    one = np.asarray(query, dtype=np.float64)
    many = np.ascontiguousarray(passages, dtype=np.float64)
    scores = (many * one).sum(axis=-1)
    if cosine:
        norms = np.sqrt((many * many).sum(axis=-1)) * np.sqrt((one * one).sum())
        scores = scores / np.maximum(norms, SMALLEST_NORM)
    result: NDArray[np.float32] = scores.astype(np.float32)
    return result


def _error(query: Vectors, largest: float, cosine: bool) -> float:
    """Bound the rounding error of one float32 score: D·u·|q|·|p|, twice, for the norms' own error."""
    size = 1.0 if cosine else float(np.linalg.norm(query)) * largest
    return 2 * len(query) * UNIT_ROUNDOFF * size


def _nominate(
    queries: Vectors, pool: Vectors, depth: int, cosine: bool, device: str, query_block: int, pool_block: int
) -> Nominees:
    """Search the pool block by block in float32."""
    import torch

    asked = torch.from_numpy(queries).to(device)
    if cosine:
        asked = torch.nn.functional.normalize(asked, dim=-1, eps=SMALLEST_NORM)
    scores = torch.empty((len(queries), 0), device=device)
    positions = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    largest = 0.0
    # A training that evaluates may have autocast on; the bound on the rounding error is float32's.
    with torch.inference_mode(), torch.autocast(asked.device.type, enabled=False):
        for start in range(0, len(pool), pool_block):
            block = torch.from_numpy(np.array(pool[start : start + pool_block], dtype=np.float32)).to(device)
            norms = block.norm(dim=-1)
            largest = max(largest, float(norms.max()))
            if cosine:
                block /= norms.clamp_min(SMALLEST_NORM).unsqueeze(-1)
            parts = [
                _merge(asked[rows], block, scores[rows], positions[rows], start, depth)
                for rows in (slice(at, at + query_block) for at in range(0, len(queries), query_block))
            ]
            scores, positions = (torch.cat(column) for column in zip(*parts))
            release(pool)
    return positions.cpu().numpy(), scores.amin(dim=-1).cpu().numpy(), largest


def _merge(asked: Any, block: Any, best: Any, where: Any, start: int, depth: int) -> tuple[Any, Any]:
    """Fold one block [n, D] into the running best scores and positions [q, ≤ depth] of some queries [q, D]."""
    import torch

    fresh, rows = (asked @ block.T).topk(min(depth, len(block)), dim=-1, sorted=False)
    scores = torch.cat([best, fresh], dim=-1)
    positions = torch.cat([where, rows + start], dim=-1)
    if scores.shape[-1] <= depth:
        return scores, positions
    scores, kept = scores.topk(depth, dim=-1, sorted=False)
    return scores, positions.gather(-1, kept)
