"""The diverse retriever: the hand-worked example, the plain order, exact copies, a slow reference, blocks."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest

from finerank.core.errors import UsageError
from finerank.retrieval import diverse
from finerank.retrieval.diverse import diverse_select, weights

QUERY = np.array([1.0, 0.0, 0.0], np.float32)
SOURCE = np.array([0.0, 1.0, 0.0], np.float32)
PASSAGES = np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [0.6, 0.0, 0.8], [0.6, 0.8, 0.0]], np.float32)
EQUAL = {"lambda1": 1.0, "lambda2": 1.0, "lambda3": 1.0}


def random_vectors(seed: int, count: int, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def slow(query, passages, source, k, given, pool_factor=3, exclude=()):
    """The formula as it is written, with two loops and lists."""
    cosine = lambda a, b: float(a.astype(float) @ b.astype(float) / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    given = np.array(given) / sum(given)
    order = sorted(
        (n for n in range(len(passages)) if n not in exclude), key=lambda n: (-cosine(query, passages[n]), n)
    )
    pool, chosen, scores = order[: k * pool_factor], [], []
    while pool and len(chosen) < k:

        def score(n):
            likest = max((cosine(passages[n], passages[m]) for m in chosen), default=0.0)
            likeness = 0.0 if source is None else cosine(passages[n], source)
            return given[0] * cosine(query, passages[n]) - given[1] * likeness - given[2] * likest

        best = max(pool, key=score)
        scores.append(score(best))
        chosen.append(best)
        pool.remove(best)
    return chosen, scores


def test_the_docstrings_example_is_true():
    assert doctest.testmod(diverse).failed == 0
    assert doctest.testmod(diverse).attempted >= 4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_source", [True, False])
def test_agrees_with_the_formula_written_out(seed, with_source):
    vectors = random_vectors(seed, 40)
    given = tuple(np.random.default_rng(seed).random(3))
    source = vectors[-1] if with_source else None
    expected = slow(vectors[-2], vectors[:-2], source, 6, given, exclude=(3,))
    positions, scores = diverse_select(
        vectors[-2], vectors[:-2], source, k=6, lambda1=given[0], lambda2=given[1], lambda3=given[2], exclude=[3]
    )
    assert positions.tolist() == expected[0]
    assert scores == pytest.approx(expected[1], abs=1e-6)


def test_only_the_first_lambda_gives_the_plain_order():
    vectors = random_vectors(1, 200)
    vectors[[5, 50, 150]] = vectors[20]  # copies: ties
    for k in (1, 7, 60, 500):
        positions, scores = diverse_select(
            vectors[20] + vectors[21], vectors, vectors[9], k=k, lambda1=1, lambda2=0, lambda3=0
        )
        unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
        cosines = (unit @ (vectors[20] + vectors[21]) / np.linalg.norm(vectors[20] + vectors[21])).astype(np.float32)
        plain = sorted(range(200), key=lambda n: (-round(float(cosines[n]), 6), n))[:k]
        assert positions.tolist() == plain
        assert all(first >= second for first, second in zip(scores, scores[1:]))


@pytest.mark.parametrize("seed", range(10))
def test_only_the_third_lambda_never_takes_a_copy_while_others_remain(seed):
    different = random_vectors(seed, 5)
    passages = np.concatenate([different[:1], different[:1] * 3.0, different[:1], different])
    positions, _ = diverse_select(different[0], passages, k=6, lambda1=0, lambda2=0, lambda3=1, pool_factor=4)
    copies = {0, 1, 2, 3}
    assert positions[0] == 0  # nothing is chosen yet: all are equal, the most relevant is first
    assert not copies.intersection(positions[1:5].tolist())
    assert positions[5] == 1  # only copies are left: the earlier rank


def test_ties_go_to_the_earlier_rank():
    positions, _ = diverse_select(QUERY, PASSAGES[[0] * 5], SOURCE, k=5, **EQUAL)
    assert positions.tolist() == [0, 1, 2, 3, 4]


def test_lambdas_are_divided_by_their_sum():
    one = diverse_select(QUERY, PASSAGES, SOURCE, k=4, lambda1=0.5, lambda2=0.1, lambda3=0.4)
    ten = diverse_select(QUERY, PASSAGES, SOURCE, k=4, lambda1=5, lambda2=1, lambda3=4)
    assert one[0].tolist() == ten[0].tolist()
    assert one[1] == pytest.approx(ten[1])


@pytest.mark.parametrize(
    "bad", [(-0.1, 1, 1), (0, 0, 0), (float("nan"), 1, 1), (1, float("inf"), 1), (1e308, 1e308, 0)]
)
def test_impossible_lambdas_are_refused(bad):
    with pytest.raises(UsageError, match="lambda"):
        weights(*bad)


def test_what_is_excluded_takes_no_place_in_the_pool():
    """The pool of 1 · k holds k passages that may be chosen."""
    positions, _ = diverse_select(QUERY, PASSAGES, k=2, pool_factor=1, exclude={0, 2}, **EQUAL)
    assert positions.tolist() == [1, 3]
    positions, _ = diverse_select(QUERY, PASSAGES, k=9, exclude=range(4), **EQUAL)
    assert positions.tolist() == []


def test_the_pool_bounds_what_can_be_chosen():
    vectors = random_vectors(3, 100)
    for factor in (1, 2, 5):
        positions, _ = diverse_select(vectors[0], vectors, k=5, pool_factor=factor, **EQUAL)
        plain, _ = diverse_select(vectors[0], vectors, k=5 * factor, lambda1=1, lambda2=0, lambda3=0)
        assert set(positions.tolist()) <= set(plain.tolist())


def test_lengths_of_vectors_and_the_blocks_of_a_search_do_not_matter(monkeypatch, tmp_path):
    vectors = random_vectors(4, 300)
    expected = diverse_select(vectors[0], vectors, vectors[1], k=20, **EQUAL)
    scaled = vectors * np.random.default_rng(0).uniform(0.5, 8, size=(300, 1)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", scaled)
    monkeypatch.setattr(diverse, "POOL_BLOCK", 7)
    found = diverse_select(vectors[0] * 4, np.load(tmp_path / "vectors.npy", mmap_mode="r"), vectors[1], k=20, **EQUAL)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1] == pytest.approx(expected[1], abs=1e-6)


def test_no_passages_and_zero_vectors_are_no_errors():
    assert diverse_select(QUERY, PASSAGES[:0], k=3, **EQUAL)[0].tolist() == []
    positions, scores = diverse_select(np.zeros(3, np.float32), PASSAGES, SOURCE, k=4, **EQUAL)
    assert sorted(positions.tolist()) == [0, 1, 2, 3]
    assert np.isfinite(scores).all()


def test_wrong_shapes_and_nan_are_refused():
    with pytest.raises(ValueError, match="passages"):
        diverse_select(QUERY[:2], PASSAGES, k=1, **EQUAL)
    with pytest.raises(ValueError, match="source"):
        diverse_select(QUERY, PASSAGES, SOURCE[:2], k=1, **EQUAL)
    with pytest.raises(ValueError, match="finite"):
        diverse_select(QUERY * np.nan, PASSAGES, k=1, **EQUAL)


def test_needs_no_torch():
    code = "import sys; from finerank.retrieval.diverse import diverse_select; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
