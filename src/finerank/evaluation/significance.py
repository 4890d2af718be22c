"""How sure a figure is: bootstrap intervals, the paired randomisation test, Holm's correction.

Everything takes one value per query, is seeded, and runs in blocks, so that memory does not grow with the number of
resamples. Sources: Efron and Tibshirani 1993 (percentile bootstrap); Smucker, Allan and Carterette 2007 (the
randomisation test for retrieval); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finerank.core.seeding import DEFAULT_SEED, stream_seed

RESAMPLES = 10_000
EXACT_QUERIES = 12
BLOCK_ELEMENTS = 1 << 21
TOLERANCE = 1e-12
"""Sums of the same numbers in another order differ by rounding: without slack the observed one may miss itself."""


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return the mean of ``values`` [Q] and its percentile bootstrap interval over queries."""
    sample = _vector(values)
    if sample.size == 0:
        return Interval(0.0, 0.0, 0.0)
    generator = random_generator(seed, "bootstrap")
    means = np.concatenate([
        sample[generator.integers(0, sample.size, size=(rows, sample.size))].mean(axis=1)
        for rows in _blocks(resamples, sample.size)
    ])  # fmt: skip
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(sample.mean()), float(low), float(high))


def paired_interval(
    a: ArrayLike, b: ArrayLike, seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return the mean of ``a - b`` and its interval; both are [Q], aligned by query."""
    return bootstrap_interval(_differences(a, b), seed, resamples=resamples, level=level)


def paired_randomisation(a: ArrayLike, b: ArrayLike, seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the paired randomisation (sign-flip) test on the mean difference.

    Queries on which the two are equal carry no sign and are left out. Up to 12 others: all sign patterns are
    counted and p is exact. More: ``p = (1 + hits) / (1 + resamples)``, which is never 0.

    >>> paired_randomisation([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    0.25
    """
    differences = _differences(a, b)
    differences = differences[differences != 0.0]
    count = differences.size
    if count == 0:
        return 1.0
    bound = abs(differences.sum()) - TOLERANCE * np.abs(differences).sum()
    if count <= EXACT_QUERIES:
        patterns = np.arange(1 << count)[:, None] >> np.arange(count) & 1
        return float((np.abs((2.0 * patterns - 1.0) @ differences) >= bound).mean())
    generator = random_generator(seed, "randomisation")
    hits = 0
    for rows in _blocks(resamples, count):
        signs = generator.integers(0, 2, size=(rows, count), dtype=np.int8)
        hits += int((np.abs((2.0 * signs - 1.0) @ differences) >= bound).sum())
    return (1.0 + hits) / (1.0 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = highest
    return adjusted


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise ValueError(f"expected one value per query, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("a value per query is not a finite number")
    return sample


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    first, second = _vector(a), _vector(b)
    if first.shape != second.shape:
        raise ValueError(f"paired values must be aligned by query: {first.size} against {second.size}")
    return first - second


def random_generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(stream_seed(seed, "significance", name))


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """Yield block heights that add up to ``resamples``, each at most BLOCK_ELEMENTS / width rows."""
    height = max(1, BLOCK_ELEMENTS // max(1, width))
    for start in range(0, resamples, height):
        yield min(height, resamples - start)


def aligned(values: dict[str, float], queries: Sequence[str]) -> NDArray[Any]:
    """Return one metric's values as an array in the order of ``queries``."""
    return np.array([values[query] for query in queries], dtype=np.float64)
