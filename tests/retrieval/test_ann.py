"""faiss indices: the exact one equals the plain search, the approximate ones find nearly all and score truly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.retrieval import ann
from finerank.retrieval.ann import FaissSearcher, Kind
from finerank.retrieval.dense import exact_scores, top_k

SIZE, DIMENSION, CLUSTERS = 10_000, 16, 100
APPROXIMATE: tuple[Kind, ...] = ("ivfpq", "hnsw")


def clustered(seed: int, count: int, dimension: int = DIMENSION) -> np.ndarray:
    """Return vectors around common centres, of many lengths."""
    centres = np.random.default_rng(99).normal(size=(CLUSTERS, dimension))
    rng = np.random.default_rng(seed)
    points = centres[rng.integers(0, CLUSTERS, count)] + 0.4 * rng.normal(size=(count, dimension))
    return (points * rng.uniform(0.8, 1.2, size=(count, 1))).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _faiss() -> None:
    pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def pool() -> np.ndarray:
    return clustered(1, SIZE)


@pytest.fixture(scope="module")
def searchers(pool: np.ndarray) -> dict[tuple[Kind, bool], FaissSearcher]:
    return {
        (kind, cosine): FaissSearcher(pool, kind, cosine=cosine, seed=3)
        for kind in APPROXIMATE
        for cosine in (True, False)
    }


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("k", [1, 40, 5000])
def test_flat_is_exact_to_the_bit(monkeypatch: pytest.MonkeyPatch, cosine: bool, k: int) -> None:
    monkeypatch.setattr(ann, "POOL_BLOCK", 170)
    pool, queries = clustered(4, 700), clustered(5, 9)
    pool[300:340] = pool[7]  # ties
    found = FaissSearcher(pool, "flat", cosine=cosine, seed=0).search(queries, k)
    wanted = top_k(queries, pool, k, cosine=cosine)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_ones_find_nearly_all_and_score_truly(
    searchers: dict[tuple[Kind, bool], FaissSearcher], pool: np.ndarray, kind: Kind, cosine: bool
) -> None:
    queries, k = clustered(6, 60), 50
    searcher = searchers[kind, cosine]
    positions, scores = searcher.search(queries, k)
    wanted = top_k(queries, pool, k, cosine=cosine)[0]
    assert not searcher.exact
    assert positions.shape == scores.shape == (60, k)
    recall = np.mean([len(set(found) & set(true)) / k for found, true in zip(positions.tolist(), wanted.tolist())])
    assert recall >= 0.9
    for query, found, given in zip(queries, positions, scores):
        assert len(set(found.tolist())) == k
        assert np.array_equal(given, exact_scores(query, pool[found], cosine=cosine))
        assert (np.diff(given) <= 0).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_same_again_and_whoever_asks_beside(
    searchers: dict[tuple[Kind, bool], FaissSearcher], pool: np.ndarray, kind: Kind
) -> None:
    queries = clustered(7, 41)
    positions, scores = searchers[kind, True].search(queries, 20)
    again = FaissSearcher(pool, kind, cosine=True, seed=3)
    parts = [again.search(queries[start : start + 6], 20) for start in range(0, 41, 6)]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), positions)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), scores)


def test_a_query_that_finds_too_few_is_searched_exactly(
    searchers: dict[tuple[Kind, bool], FaissSearcher], pool: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = FaissSearcher.__new__(FaissSearcher)
    searcher.__dict__ |= searchers["hnsw", True].__dict__ | {"searched_exactly": 0}
    plain = FaissSearcher._nominate

    def gaps(self: FaissSearcher, queries: np.ndarray, k: int) -> np.ndarray:
        found = plain(self, queries, k)
        found[1, 4:] = -1
        return found

    monkeypatch.setattr(FaissSearcher, "_nominate", gaps)
    queries = clustered(8, 3)
    positions, scores = searcher.search(queries, 10)
    wanted = top_k(queries[1:2], pool, 10, cosine=True)
    assert searcher.searched_exactly == 1
    assert np.array_equal(positions[1], wanted[0][0])
    assert np.array_equal(scores[1], wanted[1][0])


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_large_shares_of_the_pool_and_small_pools_are_exact(
    searchers: dict[tuple[Kind, bool], FaissSearcher], pool: np.ndarray, kind: Kind
) -> None:
    query = clustered(9, 1)
    deep = searchers[kind, True].search(query, SIZE)
    assert np.array_equal(deep[0], top_k(query, pool, SIZE, cosine=True)[0])
    small = FaissSearcher(pool[:500], kind, cosine=True, seed=0)
    assert small.exact
    assert np.array_equal(small.search(query, 600)[0], top_k(query, pool[:500], 600, cosine=True)[0])


def test_vectors_may_lie_on_disk(
    searchers: dict[tuple[Kind, bool], FaissSearcher], tmp_path: Path, pool: np.ndarray
) -> None:
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="w+", shape=pool.shape)
    mapped[:] = pool
    query = clustered(10, 5)
    one = FaissSearcher(mapped, "ivfpq", cosine=True, seed=3).search(query, 30)
    other = searchers["ivfpq", True].search(query, 30)
    assert np.array_equal(one[0], other[0])


@pytest.mark.parametrize(("dimension", "values"), [(384, 8), (1024, 8), (100, 10), (31, 31), (4, 4), (1, 1)])
def test_values_per_code(dimension: int, values: int) -> None:
    assert ann._values_per_code(dimension) == values


def test_without_faiss_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, pool: np.ndarray) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match=r'(?s)--index needs faiss.*pip install "finerank\[faiss\]"'):
        FaissSearcher(pool, "flat", cosine=True, seed=0)
