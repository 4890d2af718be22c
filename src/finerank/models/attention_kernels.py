"""Attention by the tiles of a processor with AMX, compiled by numba; the way back: attention_back_kernels.

Each input's heads are computed one by one from the packed queries, keys and values, 16 rows of scores at a time, which
stay in the processor's first cache from the product that makes them to the product that uses them up (the way of
FlashAttention, Dao et al. 2022, without its blocks of keys: an encoder's inputs are short). Products are of bfloat16
and add up in float32.

Names: L positions of an input, padded to P, a multiple of 32; D numbers of a head, a multiple of 32. All is addressed
in bytes; what a kernel needs beside its arguments lies in ``scratch``, which Python keeps alive.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from finerank.models.amx import (
    CONFIG,
    TILE,
    configure,
    interleave,
    restore,
    tile_add_product,
    tile_load,
    tile_store,
    tile_zero,
    transpose,
)
from finerank.models.vectors import (
    LANES,
    filled,
    larger,
    largest,
    load,
    power_of_two,
    prefetch,
    prefetch_write,
    shade,
    store,
    store_bfloat16,
    total,
)

LOG2E = math.log2(math.e)
ROWS = 16
"""Rows of scores that are computed at a time."""


def scratch_size(longest: int, width: int) -> int:
    """Return the bytes of scratch memory for inputs of up to ``longest`` positions."""
    columns = padded.py_func(longest)
    return CONFIG + 2 * 4 * columns * width + 6 * ROWS * columns + 4 * ROWS * width + TILE + 4 * columns


@njit
def padded(length):
    return (length + 31) // 32 * 32


@njit
def gather(source, stride, length, width, target):
    """Copy rows [L, D] that lie ``stride`` apart to [P, D]; zeros behind them. The next head's are fetched, too."""
    for row in range(padded(length)):
        for part in range(width // 32):
            prefetch(source + row * stride + 2 * width + 64 * part)
            words = load(source + row * stride + 64 * part) if row < length else filled(np.float32(0))
            store(target + row * width * 2 + 64 * part, words)


@njit
def expect(target, stride, count, width):
    """Have rows [count, D] that lie ``stride`` apart at hand for writing."""
    for row in range(count):
        for part in range(width // 32):
            prefetch_write(target + row * stride + 64 * part)


@njit
def lay_out(rows, length, width, target):
    """Lay out [P, D] as a right factor: tiles [P / 32, D / 16]."""
    for block in range(padded(length) // 32):
        for part in range(width // 16):
            for pair in range(16):
                first = rows + (32 * block + 2 * pair) * width * 2 + 32 * part
                interleave(first, first + width * 2, target + (block * (width // 16) + part) * TILE + 64 * pair)


@njit
def lay_out_transposed(rows, length, width, target):
    """Lay out [P, D], transposed, as a right factor: tiles [P / 16, D / 32]."""
    for block in range(padded(length) // 16):
        for part in range(width // 32):
            tile = target + (block * (width // 32) + part) * TILE
            transpose(rows + block * 32 * width + 64 * part, width * 2, tile, 64)


@njit
def write_scores(left, right, length, width, shades, target):
    """Write [16, D] times a transposed [P, D], plus a row that every row gets, as float32 [16, P]."""
    columns = padded(length)
    steps = width // 32
    for block in range(columns // 32):
        tile_load(0, shades + 128 * block, 0)
        tile_load(1, shades + 128 * block + 64, 0)
        for part in range(steps):
            tile = right + (2 * block * steps + part) * TILE
            tile_load(4, left + 64 * part, width * 2)
            tile_load(5, tile, 64)
            tile_load(6, tile + steps * TILE, 64)
            tile_add_product(0, 4, 5)
            tile_add_product(1, 4, 6)
        tile_store(0, target + 128 * block, columns * 4)
        tile_store(1, target + 128 * block + 64, columns * 4)


@njit
def weigh(left, right, length, width, target):
    """Write weights [16, P] times [P, D] as float32 [16, D]."""
    inner = padded(length)
    for part in range(width // 32):
        tile_zero(0)
        tile_zero(1)
        for block in range(inner // 32):
            tile = right + (block * (width // 16) + 2 * part) * TILE
            tile_load(4, left + 64 * block, inner * 2)
            tile_load(5, tile, 64)
            tile_load(6, tile + TILE, 64)
            tile_add_product(0, 4, 5)
            tile_add_product(1, 4, 6)
        tile_store(0, target + 128 * part, width * 4)
        tile_store(1, target + 128 * part + 64, width * 4)


@njit
def scatter(source, count, width, factor, target, stride):
    """Write float32 [count, D], times a number, as rows of bfloat16 that lie ``stride`` apart."""
    factors = filled(factor)
    for row in range(count):
        for part in range(width // LANES):
            store_bfloat16(target + row * stride + 32 * part, load(source + (row * width + LANES * part) * 4) * factors)


@njit
def shade_columns(length, target):
    """Write P numbers: 0 for positions, the farthest for padding."""
    for block in range(padded(length) // LANES):
        store(target + 64 * block, shade(length - LANES * block))


@njit
def _softmax(scores, count, length, factor, weights, sums, shifts):
    """Write the weights [16, P] of scores [16, P], not yet divided by their sums, which stay vectors [16, 16].

    In two rounds over the rows: one row would wait for its largest number, and for its sum.
    """
    blocks = padded(length) // LANES
    for row in range(count):
        line = scores + row * blocks * 64
        best = load(line)
        for block in range(1, blocks):
            best = larger(best, load(line + 64 * block))
        shifts[row] = largest(best) * factor
    factors = filled(factor)
    for row in range(count):
        line, aim = scores + row * blocks * 64, weights + row * blocks * 32
        shift, whole = filled(shifts[row]), filled(np.float32(0))
        for block in range(blocks):
            weight = power_of_two(load(line + 64 * block) * factors - shift)
            whole = whole + weight
            store_bfloat16(aim + 32 * block, weight)
        store(sums + 64 * row, whole)


@njit(nogil=True, error_model="numpy", cache=True)
def attend(starts, scale, states, attended, levels, scratch):
    """Attend: states [T, 3, H, D] -> attended [T, H, D], and log2 of each row's sum of weights, levels [H, T or 0]."""
    _, _, heads, width = states.shape
    row = 2 * heads * width
    factor = np.float32(scale * LOG2E)
    shifts = np.empty(ROWS, np.float32)
    whole_rows = 2 * width * padded(np.diff(starts).max())
    base = scratch.ctypes.data
    query = base + CONFIG
    plain = query + whole_rows
    key = plain + whole_rows
    value = key + whole_rows
    scores = value + whole_rows
    weights = scores + whole_rows // width * 2 * ROWS
    output = weights + whole_rows // width * ROWS
    sums = output + 4 * ROWS * width
    shades = sums + TILE
    configure(base)
    for place in range(len(starts) - 1):
        start, length = starts[place], starts[place + 1] - starts[place]
        shade_columns(length, shades)
        for head in range(heads):
            source = states.ctypes.data + start * 3 * row + head * width * 2
            target = attended.ctypes.data + start * row + head * width * 2
            gather(source, 3 * row, length, width, query)
            gather(source + row, 3 * row, length, width, plain)
            lay_out_transposed(plain, length, width, key)
            gather(source + 2 * row, 3 * row, length, width, plain)
            lay_out(plain, length, width, value)
            expect(target, row, length, width)
            for first in range(0, length, ROWS):
                count = min(ROWS, length - first)
                write_scores(query + first * width * 2, key, length, width, shades, scores)
                _softmax(scores, count, length, factor, weights, sums, shifts)
                weigh(weights, value, length, width, output)
                for nth in range(count):
                    whole = total(load(sums + 64 * nth))
                    if levels.size:
                        levels[head, start + first + nth] = shifts[nth] + np.float32(math.log2(whole))
                    at = target + (first + nth) * row
                    scatter(output + nth * width * 4, 1, width, np.float32(1) / whole, at, row)
    restore(base)
