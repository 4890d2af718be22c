"""Blockwise search gives what a full sort gives, ties included, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.retrieval.dense import DenseRetriever, exact_scores, top_k
from tests.retrieval.hash_encoder import HashEncoder


def brute_force(queries: np.ndarray, pool: np.ndarray, k: int, cosine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sort every score; float64 sums rounded to float32, lower position first among equals."""
    scores = np.stack([exact_scores(query, pool, cosine=cosine) for query in queries])
    order = np.stack([np.lexsort((np.arange(len(pool)), -row)) for row in scores])[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def vectors(seed: int, rows: int, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def test_hand_computed() -> None:
    pool = np.array([[1, 0], [0, 2], [1, 1], [1, 0]], dtype=np.float32)
    positions, scores = top_k(np.array([[1, 0]], dtype=np.float32), pool, 3)
    assert positions.tolist() == [[0, 2, 3]]
    assert scores.tolist() == [[1, 1, 1]]
    positions, scores = top_k(np.array([[0, 3]], dtype=np.float32), pool, 9, cosine=True)
    assert positions.tolist() == [[1, 2, 0, 3]]
    assert scores[0].tolist() == pytest.approx([1, 0.5**0.5, 0, 0])


def test_exact_scores_against_numpy() -> None:
    query, pool = vectors(0, 1)[0], vectors(1, 9)
    assert exact_scores(query, pool, cosine=False) == pytest.approx(pool @ query, abs=1e-5)
    cosines = pool @ query / np.linalg.norm(pool, axis=1) / np.linalg.norm(query)
    assert exact_scores(query, pool, cosine=True) == pytest.approx(cosines, abs=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_same_as_a_full_sort(k: int, cosine: bool) -> None:
    queries, pool = vectors(2, 20), vectors(3, 300)
    wanted = brute_force(queries, pool, k, cosine)
    found = top_k(queries, pool, k, cosine=cosine, query_block=6, pool_block=37)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])


@pytest.mark.parametrize("cosine", [False, True])
def test_ties_go_to_the_lower_position_however_many_there_are(cosine: bool) -> None:
    few = vectors(4, 5)
    pool = few[np.random.default_rng(5).integers(0, 5, size=400)]
    queries = vectors(6, 8)
    wanted = brute_force(queries, pool, 50, cosine)
    for blocks in ((1, 400), (8, 11), (3, 64)):
        found = top_k(queries, pool, 50, cosine=cosine, query_block=blocks[0], pool_block=blocks[1])
        assert np.array_equal(found[0], wanted[0])


def test_all_equal_passages_come_in_pool_order() -> None:
    positions, _ = top_k(vectors(7, 2), np.ones((300, 16), dtype=np.float32), 10)
    assert positions.tolist() == [list(range(10))] * 2


def test_zero_vectors_have_cosine_zero() -> None:
    pool = np.array([[0, 0], [-1, 0], [1, 0]], dtype=np.float32)
    positions, scores = top_k(np.array([[2, 0]], dtype=np.float32), pool, 3, cosine=True)
    assert positions.tolist() == [[2, 0, 1]]
    assert scores.tolist() == [[1, 0, -1]]


def test_blocks_do_not_change_a_bit() -> None:
    queries, pool = vectors(8, 33, 48), vectors(9, 700, 48)
    first = top_k(queries, pool, 25, cosine=True)
    for query_block, pool_block in ((1, 1), (64, 13), (5, 699)):
        again = top_k(queries, pool, 25, cosine=True, query_block=query_block, pool_block=pool_block)
        assert all(np.array_equal(one, other) for one, other in zip(first, again))


def test_retriever_yields_one_ranking_per_query() -> None:
    pool = [f"text {number}" for number in range(40)]
    retriever = DenseRetriever(HashEncoder(), pool)
    found = list(retriever.search(["text 7", "text 3", "text 7"], 4))
    assert [int(positions[0]) for positions, _ in found] == [7, 3, 7]
    assert [float(scores[0]) for _, scores in found] == pytest.approx([1, 1, 1])
    assert all(len(positions) == 4 for positions, _ in found)
    assert len(next(retriever.search(["x"], 100))[0]) == 40


def test_an_empty_pool_is_an_error() -> None:
    with pytest.raises(UserError, match="the pool holds no passage"):
        DenseRetriever(HashEncoder(), [])


@pytest.mark.gpu
def test_cuda_gives_the_same_bytes() -> None:
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no CUDA device")
    queries, pool = vectors(10, 100, 64), vectors(11, 5000, 64)
    for cosine in (False, True):
        one, other = top_k(queries, pool, 100, cosine=cosine), top_k(queries, pool, 100, cosine=cosine, device="cuda")
        assert all(np.array_equal(left, right) for left, right in zip(one, other))


def test_exact_under_a_trainers_autocast() -> None:
    import torch

    # All alike: bfloat16 cannot tell these passages from each other.
    queries, pool = vectors(0, 20, 64) + 1, vectors(1, 3000, 64) * np.float32(0.02) + 1
    plain = top_k(queries, pool, 10, cosine=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        positions, scores = top_k(queries, pool, 10, cosine=True)
    assert np.array_equal(positions, plain[0])
    assert np.array_equal(scores, plain[1])
