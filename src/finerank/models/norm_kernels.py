"""What kernels of layer norms share, compiled by numba for AVX-512."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from finerank.models.vectors import LANES, filled, load, store, store_two, total


class Norm(NamedTuple):
    """A layer norm: weight and bias float32 [N], what is added to the variance."""

    weight: Any
    bias: Any
    epsilon: Any


@njit
def statistics(row, width, epsilon):
    """Return the mean of float32 [N] and 1 / its standard deviation, as vectors."""
    share = np.float32(1) / np.float32(width)
    whole = filled(np.float32(0))
    for part in range(width // LANES):
        whole = whole + load(row + 64 * part)
    mean, squares = filled(total(whole) * share), filled(np.float32(0))
    for part in range(width // LANES):
        apart = load(row + 64 * part) - mean
        squares = squares + apart * apart
    return mean, filled(np.float32(1) / np.float32(np.sqrt(total(squares) * share + epsilon)))


@njit
def write_norm(row, width, norm, target, step, exact):
    """Write the layer norm of float32 [N] as bfloat16, 32 numbers ``step`` bytes from the next 32; and at ``exact``,
    unless that is 0, as float32.
    """
    weight, bias = norm.weight.ctypes.data, norm.bias.ctypes.data
    mean, scale = statistics(row, width, norm.epsilon)
    for place in range(0, 4 * width, 128):
        left = (load(row + place) - mean) * scale * load(weight + place) + load(bias + place)
        near = place + 64
        right = (load(row + near) - mean) * scale * load(weight + near) + load(bias + near)
        if exact:
            store(exact + place, left)
            store(exact + near, right)
        store_two(target + place // 128 * step, left, right)
