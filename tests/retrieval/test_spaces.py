"""Pools of queries: cosines by hand, the source left out, plain and diverse lists of one pool."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.diverse import diverse_select, weights
from finerank.retrieval.spaces import Pool, VectorSpace, WordSpace, pools
from finerank.retrieval.sparse import SparseIndex

from .hash_encoder import HashEncoder

TEXTS = [
    "the red fish swims in the river", "a red boat on the river", "the river bank is green", "a list of numbers",
    "sort the list of numbers", "red fish red fish", "an engine of steam",
]  # fmt: skip
QUERIES = ["red fish", "list of numbers"]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    one, other = first.astype(float), second.astype(float)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_vector_pool_holds_all_cosines_and_not_the_source() -> None:
    space = VectorSpace(HashEncoder(), TEXTS)
    vectors = HashEncoder().encode(TEXTS, "passage")
    asked = HashEncoder().encode(QUERIES, "query")
    for query, source, pool in zip(asked, (5, None), pools(space, QUERIES, [5, None], 4)):
        assert len(pool) == 4
        assert source not in pool.positions.tolist()
        others = [place for place in range(len(TEXTS)) if place != source]
        best = sorted(others, key=lambda place, query=query: (-cosine(query, vectors[place]), place))[:4]
        assert pool.positions.tolist() == best
        assert pool.relevance == pytest.approx([cosine(query, vectors[place]) for place in best], abs=1e-5)
        for (row, one), (column, other) in itertools.product(enumerate(best), repeat=2):
            assert pool.gram[row, column] == pytest.approx(cosine(vectors[one], vectors[other]), abs=1e-6)
        if source is None:
            assert pool.to_source is None
        else:
            assert pool.to_source == pytest.approx(
                [cosine(vectors[source], vectors[place]) for place in best], abs=1e-6
            )


def test_a_diverse_list_is_that_of_the_whole_corpus() -> None:
    vectors = HashEncoder().encode(TEXTS, "passage")
    (pool,) = pools(VectorSpace(HashEncoder(), TEXTS), QUERIES[:1], [2], 6)
    for k, factor in ((2, 3), (3, 2), (2, 1)):
        expected, _ = diverse_select(
            HashEncoder().encode(QUERIES[:1], "query")[0], vectors, vectors[2], k=k, lambda1=0.5, lambda2=0.2,
            lambda3=0.3, pool_factor=factor, exclude=[2],
        )  # fmt: skip
        places = pool.diverse(k, factor, weights(0.5, 0.2, 0.3))
        assert pool.positions[places].tolist() == expected.tolist()


def test_a_pool_of_words_is_in_bm25s_order_and_ends_with_the_last_shared_word() -> None:
    space = WordSpace(SparseIndex(TEXTS))
    for query, source, pool in zip(QUERIES, (5, None), pools(space, QUERIES, [5, None], 9)):
        positions, scores = next(iter(Bm25Retriever(TEXTS).search([query], len(TEXTS))))
        kept = [place for place, score in zip(positions.tolist(), scores) if score > 0 and place != source]
        assert pool.positions.tolist() == kept
        assert pool.relevance[0] == 1.0
        assert (np.diff(pool.relevance) <= 0).all()
        assert pool.plain(2) == [0, 1][: len(kept)]


def test_a_query_without_a_known_word_finds_nothing() -> None:
    (pool,) = pools(WordSpace(SparseIndex(TEXTS)), ["xylophone"], [0], 5)
    assert len(pool) == 0
    assert pool.plain(3) == pool.diverse(3, 3, weights(1, 1, 1)) == []
    assert pool.likeness([]) is None
    assert pool.nearness([]) is None


def test_means_over_a_list_by_hand() -> None:
    gram = np.array([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]])
    pool = Pool(np.array([4, 2, 9]), np.array([0.9, 0.8, 0.7], np.float32), np.array([0.2, 0.4, 0.6]), gram)
    assert pool.likeness([0, 1, 2]) == pytest.approx(0.3)
    assert pool.likeness([2, 0]) == pytest.approx(0.1)
    assert pool.likeness([1]) is None
    assert pool.nearness([0, 2]) == pytest.approx(0.4)
