"""Functions of vectors in kernels are as exact as they say, over all the numbers that they may meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from finerank.models import torch_block

pytestmark = pytest.mark.skipif(torch_block.tiled() is None, reason="no AMX, or no numba")


def each(name: str) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Return a function of vectors as one of arrays of float32 whose length is a multiple of 16."""
    from numba import njit

    from finerank.models import vector_functions
    from finerank.models.vectors import load, store

    function = getattr(vector_functions, name)

    @njit
    def run(numbers, result):  # type: ignore[no-untyped-def]
        for place in range(0, len(numbers), 16):
            store(result.ctypes.data + 4 * place, function(load(numbers.ctypes.data + 4 * place)))

    def of(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        result = np.empty(len(numbers), np.float32)
        run(numbers.astype(np.float32), result)
        return result.astype(np.float64)

    return of


def test_powers_of_two() -> None:
    power = each("power_of_two")
    numbers = np.linspace(-125, 127, 16 * 5000, dtype=np.float32)
    assert np.abs(power(numbers) / 2.0 ** numbers.astype(np.float64) - 1).max() < 1e-4
    ends = power(np.array([-1e30, -np.inf, -200, 129, 1e30, np.inf, np.nan, 0] * 2))[:8]
    assert ends[:6].tolist() == [0, 0, 0, np.inf, np.inf, np.inf]
    assert np.isnan(ends[6])
    assert abs(ends[7] - 1) < 1e-4


def test_logarithms_and_inverses() -> None:
    numbers = np.exp2(np.linspace(-60, 60, 16 * 5000)).astype(np.float32)
    assert np.abs(each("logarithm_of_two")(numbers) - np.log2(numbers.astype(np.float64))).max() < 2e-5
    assert np.abs(each("inverse")(numbers) * numbers - 1).max() < 6.2e-5


def test_gelu() -> None:
    numbers = np.linspace(-12, 12, 16 * 5000, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(numbers).double()).numpy()
    assert np.abs(each("gelu")(numbers) - expected).max() < 3e-4


def test_totals() -> None:
    from numba import njit

    from finerank.models.vectors import store, totals

    @njit
    def run(rows, result):  # type: ignore[no-untyped-def]
        store(result.ctypes.data, totals(rows.ctypes.data))

    rows, result = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32), np.empty(16, np.float32)
    run(rows, result)
    np.testing.assert_allclose(result, rows.sum(1), rtol=1e-4, atol=1e-5)
