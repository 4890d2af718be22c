"""Reciprocal rank fusion by hand: scores, ties, windows, tiers, each side's rank."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from finerank.retrieval.hybrid import Fused, HybridRetriever, fuse_ranks


class Listed:
    """A retriever that knows one list for every query."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = np.array(positions, dtype=np.int64)

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in queries:
            found = self.positions[:k]
            yield found, np.linspace(1, 0, len(found), dtype=np.float32)


def fused(a: Sequence[int], b: Sequence[int], depth: int, window: int = 1000, k: float = 60, size: int = 10) -> Fused:
    retriever = HybridRetriever({"a": Listed(a), "b": Listed(b)}, size, k, window)
    return next(retriever.fuse(["q"], depth))


def test_scores_by_hand() -> None:
    found = fused([7, 3, 5], [3, 9, 7], 10)
    #  3: rank 2 and 1;  7: rank 1 and 3;  9: rank 2 on b;  5: rank 3 on a
    assert found.positions.tolist() == [3, 7, 9, 5]
    expected = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63]
    assert found.scores == pytest.approx(expected, rel=1e-6)
    assert found.scores.dtype == np.float32
    assert found.ranks["a"].tolist() == [1, 0, -1, 2]
    assert found.ranks["b"].tolist() == [0, 2, 1, -1]


def test_equal_scores_go_to_the_earlier_position() -> None:
    assert fused([8, 2], [2, 8], 10).positions.tolist() == [2, 8]
    assert fused([9, 1], [4, 6], 10).positions.tolist() == [4, 9, 1, 6]


def test_the_constant_decides_between_one_high_rank_and_two_middling_ones() -> None:
    a, b = [1, 5, 6, 7, 2], [3, 8, 9, 4, 2]
    assert fused(a, b, 1, k=60).positions.tolist() == [2]  # 2/65 > 1/61
    assert fused(a, b, 1, k=1).positions.tolist() == [1]  # 2/6 < 1/2


def test_a_window_adds_nothing_from_below_it() -> None:
    found = fused([0, 1, 2, 3], [3, 2, 1, 0], 2, window=2)
    # 0 and 3 are first on one side, 1 and 2 second; their places on the other side are outside of the window
    assert found.positions.tolist() == [0, 3]
    assert found.scores == pytest.approx([1 / 61, 1 / 61])
    assert (found.ranks["a"].tolist(), found.ranks["b"].tolist()) == ([0, -1], [-1, 0])


def test_a_deeper_ranking_begins_with_the_shallower_one() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        a = rng.sample(range(200), 200)
        b = rng.sample(range(200), rng.randint(0, 60))
        deepest = fused(a, b, 200, window=8, size=200)
        assert sorted(deepest.positions.tolist()) == list(range(200))
        for depth in (1, 5, 8, 9, 33, 100, 199):
            found = fused(a, b, depth, window=8, size=200)
            assert found.positions.tolist() == deepest.positions[:depth].tolist()
            assert found.scores.tolist() == deepest.scores[:depth].tolist()
            for side in "ab":
                assert found.ranks[side].tolist() == deepest.ranks[side][:depth].tolist()


def test_a_window_as_deep_as_the_pool_is_the_plain_formula() -> None:
    rng = random.Random(1)
    a, b = rng.sample(range(50), 50), rng.sample(range(50), 50)
    scores = {p: 1 / (61 + a.index(p)) + 1 / (61 + b.index(p)) for p in range(50)}
    expected = sorted(scores, key=lambda p: (-scores[p], p))
    assert fused(a, b, 50, window=50, size=50).positions.tolist() == expected


def test_search_is_fuse_without_the_ranks() -> None:
    retriever = HybridRetriever({"a": Listed([1, 0]), "b": Listed([1])}, 2)
    found = list(retriever.search(["q", "r"], 1))
    assert [(positions.tolist(), len(scores)) for positions, scores in found] == [([1], 1), ([1], 1)]


def test_three_sides_and_an_empty_one() -> None:
    empty = np.empty(0, dtype=np.int64)
    found = fuse_ranks({"a": np.array([4, 2]), "b": empty, "c": np.array([2])}, 5, [10])
    assert found.positions.tolist() == [2, 4]
    assert found.ranks["b"].tolist() == [-1, -1]
    assert fuse_ranks({"a": empty, "b": empty}, 5, [10]).positions.tolist() == []
