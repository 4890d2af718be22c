"""What a training step computes between an encoder's products and its attention, compiled by numba for AVX-512.

Dropout, residual, layer norm and the rounding for the next product take one round over memory instead of four, and so
does their way back.

Names: T tokens of N numbers. Activations and their gradients are bfloat16, the residual stream and norms float32.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from finerank.models.amx import CONFIG
from finerank.models.norm_kernels import statistics
from finerank.models.vector_functions import below, power_of_two
from finerank.models.vectors import (
    LANES,
    filled,
    load,
    load_bfloat16,
    store,
    store_bfloat16,
    total,
)

_BELL = np.float32(-0.5 * math.log2(math.e))
_PEAK = np.float32((2 * math.pi) ** -0.5)


def scratch_size(width: int) -> int:
    """Return the bytes of scratch memory for tokens of ``width`` numbers."""
    return CONFIG + 4 * width


@njit(nogil=True, error_model="numpy", cache=True)
def activate(first, last, states, activated):
    """Write GELU of numbers ``first`` to ``last`` of bfloat16 [T * N]; both multiples of 16."""
    source, target = states.ctypes.data, activated.ctypes.data
    for place in range(first, last, LANES):
        state = load_bfloat16(source + 2 * place)
        share = below(state, power_of_two(state * state * filled(_BELL)))
        store_bfloat16(target + 2 * place, state * share)


@njit(nogil=True, error_model="numpy", cache=True)
def activate_back(first, last, states, above, back):
    """Write the gradient of GELU's argument, given that of its result, ``above``; all bfloat16 [T * N]."""
    source, given, target = states.ctypes.data, above.ctypes.data, back.ctypes.data
    for place in range(first, last, LANES):
        state = load_bfloat16(source + 2 * place)
        bell = power_of_two(state * state * filled(_BELL))
        slope = below(state, bell) + state * bell * filled(_PEAK)
        store_bfloat16(target + 2 * place, load_bfloat16(given + 2 * place) * slope)


@njit(nogil=True, error_model="numpy", cache=True)
def add_norm(first, last, states, kept, residual, norm, sums, normed, rounded):
    """Add tokens ``first`` to ``last`` of bfloat16 states [T, N], times factors ``kept`` (or none: [0]), to a residual.

    Written are the sums, their layer norm, and that as bfloat16.
    """
    _, width = states.shape
    weight, bias = norm.weight.ctypes.data, norm.bias.ctypes.data
    for row in range(first, last):
        start = row * width
        state, factor = states.ctypes.data + 2 * start, kept.ctypes.data + 2 * start
        old = residual.ctypes.data + 4 * start
        at, aim, short = sums.ctypes.data + 4 * start, normed.ctypes.data + 4 * start, rounded.ctypes.data + 2 * start
        for part in range(width // LANES):
            added = load_bfloat16(state + 32 * part)
            if kept.size:
                added = added * load_bfloat16(factor + 32 * part)
            store(at + 64 * part, added + load(old + 64 * part))
        mean, scale = statistics(at, width, norm.epsilon)
        for part in range(width // LANES):
            value = (load(at + 64 * part) - mean) * scale * load(weight + 64 * part) + load(bias + 64 * part)
            store(aim + 64 * part, value)
            store_bfloat16(short + 32 * part, value)


@njit(nogil=True, error_model="numpy", cache=True)
def add_norm_back(first, last, sums, kept, above, rounded, norm, back, down, gradients, scratch):
    """Go back: gradients of what ``add_norm`` wrote, ``above`` float32 and ``rounded`` bfloat16 [T, N] (either may be
    empty), to those of the residual, ``back`` float32, and of the states, ``down`` bfloat16 [T, N].

    Written, too, are the sums over these tokens that are the gradients of the norm's weight and bias, float32 [2, N].
    """
    _, width = sums.shape
    share = np.float32(1) / np.float32(width)
    weight, of_weight = norm.weight.ctypes.data, gradients.ctypes.data
    of_bias, slopes = of_weight + 4 * width, scratch.ctypes.data + CONFIG
    for part in range(2 * width // LANES):
        store(of_weight + 64 * part, filled(np.float32(0)))
    for row in range(first, last):
        at, start = sums.ctypes.data + 4 * row * width, row * width
        mean, scale = statistics(at, width, norm.epsilon)
        flat, steep = filled(np.float32(0)), filled(np.float32(0))
        for part in range(width // LANES):
            place = start + LANES * part
            slope = filled(np.float32(0))
            if above.size:
                slope = load(above.ctypes.data + 4 * place)
            if rounded.size:
                slope = slope + load_bfloat16(rounded.ctypes.data + 2 * place)
            unit = (load(at + 64 * part) - mean) * scale
            store(of_weight + 64 * part, load(of_weight + 64 * part) + slope * unit)
            store(of_bias + 64 * part, load(of_bias + 64 * part) + slope)
            slope = slope * load(weight + 64 * part)
            flat = flat + slope
            steep = steep + slope * unit
            store(slopes + 64 * part, slope)
        level, tilt = filled(total(flat) * share), filled(total(steep) * share)
        for part in range(width // LANES):
            unit = (load(at + 64 * part) - mean) * scale
            slope = (load(slopes + 64 * part) - level - unit * tilt) * scale
            place = start + LANES * part
            store(back.ctypes.data + 4 * place, slope)
            if kept.size:
                slope = slope * load_bfloat16(kept.ctypes.data + 2 * place)
            store_bfloat16(down.ctypes.data + 2 * place, slope)
