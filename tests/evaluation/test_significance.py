"""Intervals and tests against enumeration, known distributions and hand-computed values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.evaluation import significance
from finerank.evaluation.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    paired_interval,
    paired_randomisation,
    paired_randomisations,
    random_generator,
    smallest_detectable,
    tail,
)


def enumerated(a: np.ndarray, b: np.ndarray) -> float:
    """Count all sign patterns of all queries, equal ones included."""
    differences = a - b
    observed = abs(differences.sum())
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=len(differences))]
    return float(np.mean([total >= observed - 1e-9 for total in sums]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=10))
def test_exact_randomisation_equals_enumeration(values: list[tuple[int, int]]) -> None:
    a, b = (np.array(column) / 10.0 for column in zip(*values))
    assert paired_randomisation(a, b) == pytest.approx(enumerated(a, b), abs=1e-12)


def test_sampled_randomisation_is_near_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    a, b = draw.random(12) + 0.15, draw.random(12)
    exact = paired_randomisation(a, b)
    monkeypatch.setattr(significance, "EXACT_QUERIES", 0)
    sampled = paired_randomisation(a, b, resamples=20_000)
    assert 0.01 < exact < 0.9
    assert sampled == pytest.approx(exact, abs=0.015)


def test_p_is_never_zero_and_one_for_equals() -> None:
    assert paired_randomisation(np.ones(200), np.zeros(200)) == pytest.approx(1 / 10_001)
    assert paired_randomisation(np.ones(5), np.ones(5)) == 1.0


def test_p_is_uniform_when_nothing_differs() -> None:
    draw = np.random.default_rng(0)
    found = [paired_randomisation(draw.random(30), draw.random(30), resamples=500) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1


def drawn(kind: str, samples: int, queries: int, seed: int) -> tuple[np.ndarray, float]:
    """Return values like those of a metric, [samples, queries], and their true mean."""
    draw = np.random.default_rng(seed)
    shape = samples, queries
    if kind == "hit":  # found or not
        return (draw.random(shape) < 0.6).astype(float), 0.6
    if kind == "nDCG":  # a quarter 0, some 1, the others between
        kinds = draw.random(shape)
        return np.where(kinds < 0.25, 0.0, np.where(kinds > 0.85, 1.0, draw.beta(2, 2, shape))), 0.45
    return np.where(draw.random(shape) < 0.5, 0.0, draw.normal(0.05, 0.25, shape)), 0.025  # differences, half of them 0


def coverage(kind: str, samples: int, queries: int) -> float:
    """Return how often an interval holds the true mean."""
    held = 0
    for seed in range(0, samples, 1000):
        values, true = drawn(kind, min(1000, samples), queries, 7 * queries + seed)
        held += sum(low <= true <= high for _, low, high in bootstrap_intervals(list(values), seed, resamples=2000))
    return held / samples


@pytest.mark.parametrize("kind", ["hit", "nDCG", "differences"])
def test_intervals_hold_the_true_mean(kind: str) -> None:
    assert 0.925 <= coverage(kind, 1000, 60) <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("queries", [50, 100, 300])
@pytest.mark.parametrize("kind", ["hit", "nDCG", "differences"])
def test_intervals_hold_the_true_mean_in_95_of_100(kind: str, queries: int) -> None:
    """10 000 samples each: coverage is known to ±0.4 %. The mean of 50 hits takes few values: a little more."""
    most = 0.97 if kind == "hit" and queries == 50 else 0.965
    assert 0.935 <= coverage(kind, 10_000, queries) <= most


@pytest.mark.slow
def test_p_values_equal_enumeration_of_all_signs() -> None:
    """Every number of queries up to 12, 40 random pairs each, with and without equal values."""
    draw = np.random.default_rng(11)
    for queries in range(1, 13):
        for number in range(40 if queries < 11 else 5):
            a, b = draw.random((2, queries)) if number % 2 else draw.integers(0, 4, (2, queries)) / 4.0
            assert paired_randomisation(a, b) == pytest.approx(enumerated(a, b), abs=1e-12)


def test_interval_is_near_the_normal_one_and_seeded() -> None:
    values = np.random.default_rng(2).normal(size=400)
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (mean, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, 7) != bootstrap_interval(values)


def test_blocks_do_not_change_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 50 * 7)
    assert bootstrap_interval(values) == whole


def test_paired_interval_is_that_of_the_differences() -> None:
    a, b = np.random.default_rng(5).random((2, 40))
    assert paired_interval(a, b) == bootstrap_interval(a - b)


def test_holm_hand_computed() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_misaligned_or_broken_values_are_refused() -> None:
    with pytest.raises(ValueError, match="aligned"):
        paired_randomisation([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([np.nan])
    assert bootstrap_interval([]) == (0.0, 0.0, 0.0)


def test_many_at_once_equal_one_by_one() -> None:
    draw = np.random.default_rng(6)
    values = [draw.random(40), draw.random(40), draw.random(25), np.empty(0)]
    assert bootstrap_intervals(values) == [bootstrap_interval(sample) for sample in values]
    pairs = [(draw.random(40), draw.random(40)) for _ in range(3)] + [(np.ones(3), np.zeros(3))]
    assert paired_randomisations(pairs) == [paired_randomisation(a, b) for a, b in pairs]


def test_an_interval_is_that_of_drawn_means() -> None:
    values = np.random.default_rng(7).random(30)
    drawn = random_generator(42, "bootstrap").integers(0, 30, size=(500, 30))
    expected = np.quantile(values[drawn].mean(axis=1), [tail(30), 1 - tail(30)])
    assert bootstrap_interval(values, 42, resamples=500)[1:] == pytest.approx(tuple(expected), abs=1e-11)


def test_many_samples_cost_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        significance, "random_generator", lambda seed, name: asked.append(name) or random_generator(seed, name)
    )
    values = [np.random.default_rng(number).random(20) for number in range(6)]
    bootstrap_intervals(values, resamples=50)
    paired_randomisations(list(zip(values[:3], values[3:])), resamples=50)
    assert asked == ["bootstrap", "randomisation"]


def test_what_so_many_queries_can_show() -> None:
    """Half of the true differences of that size would go unseen at 1.96 standard errors; at 2.8, one in five."""
    rng = np.random.default_rng(3)
    size = smallest_detectable(rng.normal(0.0, 0.3, 200))
    found = [paired_randomisation(rng.normal(size, 0.3, 200), np.zeros(200), resamples=500) < 0.05 for _ in range(300)]
    assert 0.72 <= np.mean(found) <= 0.88
    assert smallest_detectable([0.5]) == 0.0
    assert smallest_detectable([0.5, 0.5]) == 0.0
