"""How sure a figure is: bootstrap intervals, the paired randomisation test, Holm's correction.

Everything takes one value per query, is seeded, and runs in blocks, so that memory does not grow with the number of
resamples. Sources: Hesterberg 2015 (the expanded percentile bootstrap: plain percentiles are too narrow for few
queries); Smucker, Allan and Carterette 2007 (the randomisation test for retrieval); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finerank.core.seeding import DEFAULT_SEED, stream_seed

RESAMPLES = 10_000
EXACT_QUERIES = 12
DETECTED_AT = 1.959964 + 0.841621
"""Standard errors between no difference and one that is found with a power of 80 %."""
DIGITS = 12
"""Decimals of an interval's ends."""
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
    """Return the mean of ``values`` [Q] and its bootstrap interval over queries (``tail`` says which)."""
    return bootstrap_intervals([values], seed, resamples=resamples, level=level)[0]


def bootstrap_intervals(
    several: Sequence[ArrayLike], seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES, level: float = 0.95
) -> list[Interval]:
    """Return ``bootstrap_interval`` of each; those over equally many queries share their resamples and one pass."""
    samples = [_vector(values) for values in several]
    found = [Interval(0.0, 0.0, 0.0)] * len(samples)
    for places in _by_size(samples):
        table = np.stack([samples[place] for place in places], axis=1)
        means = resampled_means(table, seed, resamples)
        outside = tail(len(table), level)
        bounds = np.quantile(means, [outside, 1.0 - outside], axis=0)
        for column, place in enumerate(places):
            # the last bits of a matrix product depend on its shape and on the number of threads; a result must not
            low, high = (round(float(bound[column]), DIGITS) for bound in bounds)
            found[place] = Interval(float(samples[place].mean()), low, high)
    return found


def tail(queries: int, level: float = 0.95) -> float:
    """Return the share of resampled means to leave out at each end of an interval.

    Resamples spread by √((Q−1)/Q) too little and know nothing of Student's t, so plain percentiles hold the true mean
    less often than they say. Hesterberg's correction: ``Φ(−√(Q/(Q−1)) · t)``, t with Q−1 degrees of freedom.

    >>> round(tail(20), 4), round(tail(1000), 4)
    (0.0159, 0.0248)
    """
    from scipy.special import ndtr, stdtrit

    if queries < 2:
        return (1.0 - level) / 2.0
    t = stdtrit(queries - 1, (1.0 + level) / 2.0)
    return float(ndtr(-np.sqrt(queries / (queries - 1)) * t))


def paired_interval(
    a: ArrayLike, b: ArrayLike, seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return the mean of ``a - b`` and its interval; both are [Q], aligned by query."""
    return bootstrap_interval(_differences(a, b), seed, resamples=resamples, level=level)


def paired_randomisation(a: ArrayLike, b: ArrayLike, seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the paired randomisation (sign-flip) test on the mean difference.

    Queries on which the two are equal carry no sign. Up to 12 others: all sign patterns are counted and p is exact.
    More: ``p = (1 + hits) / (1 + resamples)``, which is never 0.

    >>> paired_randomisation([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    0.25
    """
    return paired_randomisations([(a, b)], seed, resamples=resamples)[0]


def paired_randomisations(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], seed: int = DEFAULT_SEED, *, resamples: int = RESAMPLES
) -> list[float]:
    """Return ``paired_randomisation`` of each pair; those over equally many queries share their signs and one pass."""
    several = [_differences(a, b) for a, b in pairs]
    found = [_exact_randomisation(differences[differences != 0.0]) for differences in several]
    open_places = [place for place, p in enumerate(found) if p is None]
    for part in _by_size([several[place] for place in open_places]):
        places = [open_places[index] for index in part]
        table = np.stack([several[place] for place in places], axis=1)
        hits = _sign_flip_hits(table, seed, resamples)
        for place, count in zip(places, hits):
            found[place] = (1.0 + int(count)) / (1.0 + resamples)
    return [1.0 if p is None else p for p in found]


def smallest_detectable(differences: ArrayLike) -> float:
    """Return the mean difference that this many queries would show in 4 of 5 comparisons (5 %, two-sided).

    By the normal approximation, ``(z_0.975 + z_0.8) · s / √Q`` with the differences' own spread ``s``; 0.0 for fewer
    than two queries or no spread.

    >>> round(smallest_detectable([0.0, 1.0, -1.0, 0.0]), 3)
    1.144
    """
    values = _vector(differences)
    if len(values) < 2:
        return 0.0
    return float(DETECTED_AT * values.std(ddof=1) / np.sqrt(len(values)))


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


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) on paired successes.

    Args:
        gained: pairs in which only the one succeeds. ``lost``: in which only the other does.

    >>> mcnemar(5, 0), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    total = gained + lost
    tail = term = 1  # ways in which the rarer has 0, then 1, 2 … of them
    for count in range(min(gained, lost)):
        term = term * (total - count) // (count + 1)
        tail += term
    p: float = 2 * tail / (1 << total)  # whole numbers: these overflow no float
    return min(1.0, p)


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


def resampled_means(table: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the means [resamples, V] of resampled columns of ``table`` [Q, V].

    How often each query was drawn is counted once, for all columns; the sums are then one matrix product.
    """
    queries = len(table)
    generator = random_generator(seed, "bootstrap")
    means = []
    for rows in _blocks(resamples, queries):
        drawn = generator.integers(0, queries, size=(rows, queries))
        drawn += np.arange(rows)[:, None] * queries
        times = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        means.append(times.astype(np.float64) @ table / queries)
    return np.concatenate(means)


def _exact_randomisation(differences: NDArray[np.float64]) -> float | None:
    """Return the p-value over all sign patterns of the differences other than 0; None if there are too many."""
    count = differences.size
    if count == 0:
        return 1.0
    if count > EXACT_QUERIES:
        return None
    patterns = np.arange(1 << count)[:, None] >> np.arange(count) & 1
    return float((np.abs((2.0 * patterns - 1.0) @ differences) >= _observed(differences)).mean())


def _sign_flip_hits(table: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.int64]:
    """Count, per column of differences [Q, V], the random sign patterns whose sum is as far from 0 as the observed."""
    generator = random_generator(seed, "randomisation")
    bounds = np.array([_observed(column) for column in table.T])
    hits = np.zeros(table.shape[1], dtype=np.int64)
    for rows in _blocks(resamples, len(table)):
        bits = generator.integers(0, 2, size=(rows, len(table)), dtype=np.int8)
        hits += (np.abs((2.0 * bits - 1.0) @ table) >= bounds).sum(axis=0)
    return hits


def _observed(differences: NDArray[np.float64]) -> float:
    return float(abs(differences.sum()) - TOLERANCE * np.abs(differences).sum())


def _by_size(samples: Sequence[NDArray[np.float64]]) -> list[list[int]]:
    """Group the places of samples of equal size; empty ones are in no group."""
    groups: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        if sample.size:
            groups.setdefault(sample.size, []).append(place)
    return list(groups.values())


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """Yield block heights that add up to ``resamples``, each at most BLOCK_ELEMENTS / width rows."""
    height = max(1, BLOCK_ELEMENTS // max(1, width))
    for start in range(0, resamples, height):
        yield min(height, resamples - start)


def aligned(values: dict[str, float], queries: Sequence[str]) -> NDArray[Any]:
    """Return one metric's values as an array in the order of ``queries``."""
    return np.array([values[query] for query in queries], dtype=np.float64)
