"""Attention by the tiles of a processor with AMX, compiled by numba; the way back: attention_back_kernels.

Each input's heads are computed one by one from the packed queries, keys and values, 32 rows of scores at a time, which
stay in the processor's first cache from the product that makes them to the product that uses them up (the way of
FlashAttention, Dao et al. 2022, without its blocks of keys: an encoder's inputs are short). Products are of bfloat16
and add up in float32.

Weights are powers of scores as they are. A softmax does not change where all scores of a row are shifted; that its
largest one be 0 is only for the range of numbers, which float32 does not run out of with what models give. Where a sum
of weights comes near that, its rows are computed again with their scores shifted.

Names: L positions of an input, padded to P, a multiple of 32; D numbers of a head, a multiple of 32. All is addressed
in bytes; what a kernel needs beside its arguments lies in ``scratch``, which Python keeps alive.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import (
    CONFIG,
    HALF,
    TILE,
    configure,
    expect_near,
    interleave,
    restore,
    tile_add_product,
    tile_load,
    transpose,
    write_sums,
    zero_sums,
)
from finerank.models.compiled import kept
from finerank.models.vector_functions import inverse, logarithm_of_two, power_of_two
from finerank.models.vectors import (
    FARTHEST,
    LANES,
    filled,
    larger,
    largest,
    load,
    load_filled,
    load_one,
    prefetch,
    prefetch_write,
    shade,
    store,
    store_one,
    store_two,
    totals,
)

LOG2E = math.log2(math.e)
ROWS = 32
"""Rows of scores that are computed at a time."""
LARGE = np.float32(2.0**60)
"""What a sum of weights, and its inverse, are to stay below."""


def scratch_size(longest: int, width: int) -> int:
    """Return the bytes of scratch memory for inputs of up to ``longest`` positions."""
    columns = padded.py_func(longest)
    rows = 2 * columns * width
    return CONFIG + 3 * rows + 8 * TILE + 2 * ROWS * columns + 6 * ROWS * width + 64 * ROWS + 12 * ROWS + 2 * 64


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
def write_scores(query, key, steps, shades, target):
    """Write [32, D] times 32 keys, transposed, as float32 [32, 32]; ``shades`` are those of the keys, 0 for none."""
    if shades:
        tile_load(0, shades, 0)
        tile_load(1, shades + 64, 0)
        tile_load(2, shades, 0)
        tile_load(3, shades + 64, 0)
    else:
        zero_sums()
    for part in range(steps):
        tile_load(4, query + 64 * part, 64 * steps)
        tile_load(5, query + ROWS // 2 * 64 * steps + 64 * part, 64 * steps)
        tile_load(6, key + part * TILE, 64)
        tile_load(7, key + (steps + part) * TILE, 64)
        following = key + 2 * steps * TILE + part * TILE
        expect_near(following)
        tile_add_product(0, 4, 6)
        expect_near(following + HALF)
        tile_add_product(1, 4, 7)
        expect_near(following + steps * TILE)
        tile_add_product(2, 5, 6)
        expect_near(following + steps * TILE + HALF)
        tile_add_product(3, 5, 7)
    write_sums(target, 128)


@njit
def _weigh(scores, count, factors, shifts, sums, weights, apart):
    """Write the weights of scores [32, 32] as two tiles that lie ``apart``, and add them to vectors [32, 16]."""
    for row in range(count):
        shift = load_filled(shifts + 4 * row)
        left = power_of_two(load(scores + 128 * row) * factors - shift)
        right = power_of_two(load(scores + 128 * row + 64) * factors - shift)
        store_two(weights + row // 16 * apart + row % 16 * 64, left, right)
        store(sums + 64 * row, load(sums + 64 * row) + left + right)


@njit
def _weights(room, count, length, steps, factor):
    """Write the weights of ``count`` rows, not yet divided by their sums, as tiles [2, P / 32]; and these sums.

    A block's scores are on their way while those of the block before become weights.
    """
    factors = filled(factor)
    for row in range(ROWS):
        store(room.sums + 64 * row, filled(np.float32(0 if row < count else 1)))
    blocks = padded(length) // 32
    for block in range(blocks + 1):
        if block < blocks:
            shades = room.shades if block == length // 32 else 0
            write_scores(
                room.query, room.key + 2 * block * steps * TILE, steps, shades, room.scores + block % 2 * 4 * TILE
            )
        if block > 0:
            scores, weights = room.scores + (block - 1) % 2 * 4 * TILE, room.weights + (block - 1) * TILE
            _weigh(scores, count, factors, room.shifts, room.sums, weights, blocks * TILE)


@njit
def _shift(room, count, length, steps, factor):
    """Write how far the scores of each row are to be shifted so that the largest one is 0."""
    for row in range(ROWS):
        store(room.sums + 64 * row, filled(np.float32(FARTHEST)))
    for block in range(padded(length) // 32):
        shades = room.shades if block == length // 32 else 0
        write_scores(room.query, room.key + 2 * block * steps * TILE, steps, shades, room.scores)
        for row in range(count):
            both = larger(load(room.scores + 128 * row), load(room.scores + 128 * row + 64))
            store(room.sums + 64 * row, larger(load(room.sums + 64 * row), both))
    for row in range(count):
        store_one(room.shifts + 4 * row, largest(load(room.sums + 64 * row)) * factor)


@njit
def _sum_up(room, leveled):
    """Write the inverses of rows' sums of weights, and log2 of them; say whether they are in the middle of float32."""
    sound = True
    for half in range(ROWS // LANES):
        whole = totals(room.sums + half * TILE)
        over = inverse(whole)
        store(room.inverses + 64 * half, over)
        if leveled:
            store(room.levels + 64 * half, logarithm_of_two(whole) + load(room.shifts + 64 * half))
        sound = sound and largest(whole) < LARGE and largest(over) < LARGE
    return sound


@njit
def add_up(weights, value, blocks, width, target):
    """Write weights [32, P] times [P, D] as float32 [32, D]."""
    for part in range(width // 32):
        zero_sums()
        for block in range(blocks):
            tile = value + (block * (width // 16) + 2 * part) * TILE
            tile_load(4, weights + block * TILE, 64)
            tile_load(5, weights + (blocks + block) * TILE, 64)
            tile_load(6, tile, 64)
            tile_load(7, tile + TILE, 64)
            following = tile + width // 16 * TILE
            expect_near(following)
            tile_add_product(0, 4, 6)
            expect_near(following + HALF)
            tile_add_product(1, 4, 7)
            expect_near(following + TILE)
            tile_add_product(2, 5, 6)
            expect_near(following + TILE + HALF)
            tile_add_product(3, 5, 7)
        aim = target + 128 * part
        write_sums(aim, width * 4)


@njit
def _finish(room, count, width, target, stride):
    """Write results [count, D], divided by the sums of their weights, as rows of bfloat16 that lie ``stride`` apart."""
    for row in range(count):
        over = load_filled(room.inverses + 4 * row)
        for part in range(width // 32):
            at = room.output + (row * width + 32 * part) * 4
            store_two(target + row * stride + 64 * part, load(at) * over, load(at + 64) * over)


class _Room(NamedTuple):
    """Where attention keeps what it needs of a head, and of 32 rows: each an address."""

    plain: int
    key: int
    value: int
    query: int
    scores: int
    weights: int
    output: int
    sums: int
    shifts: int
    inverses: int
    levels: int
    shades: int


@njit
def _room(base, longest, width):
    rows = 2 * longest * width
    key = base + CONFIG + rows
    query = key + 2 * rows
    scores = query + 2 * ROWS * width
    weights = scores + 8 * TILE
    output = weights + 2 * ROWS * longest
    sums = output + 4 * ROWS * width
    shifts = sums + 64 * ROWS
    return _Room(
        base + CONFIG, key, key + rows, query, scores, weights, output, sums,
        shifts, shifts + 4 * ROWS, shifts + 8 * ROWS, shifts + 12 * ROWS,
    )  # fmt: skip


@njit
def _attend_head(room, length, width, factor, source, target, stride, levels):
    """Attend with one head, whose keys and values are laid out; ``stride`` is from row to row of what is attended."""
    steps, leveled = width // 32, len(levels) > 0
    for first in range(0, length, ROWS):
        count = min(ROWS, length - first)
        gather(source + 3 * first * stride, 3 * stride, count, width, room.query)
        expect(target + first * stride, stride, count, width)
        store(room.shifts, filled(np.float32(0)))
        store(room.shifts + 64, filled(np.float32(0)))
        _weights(room, count, length, steps, factor)
        if not _sum_up(room, leveled):
            _shift(room, count, length, steps, factor)
            _weights(room, count, length, steps, factor)
            _sum_up(room, leveled)
        add_up(room.weights, room.value, padded(length) // 32, width, room.output)
        _finish(room, count, width, target + first * stride, stride)
        for row in range(min(count, len(levels) - first)):
            levels[first + row] = load_one(room.levels + 4 * row)


@kept
def attend(starts, scale, states, attended, levels, scratch):
    """Attend: states [T, 3, H, D] -> attended [T, H, D], and log2 of each row's sum of weights, levels [H, T or 0]."""
    _, _, heads, width = states.shape
    row = 2 * heads * width
    factor = np.float32(scale * LOG2E)
    base = scratch.ctypes.data
    room = _room(base, padded(np.diff(starts).max()), width)
    configure(base)
    for place in range(len(starts) - 1):
        start, length = starts[place], starts[place + 1] - starts[place]
        for part in range(2):
            store(room.shades + 64 * part, shade(length % 32 - LANES * part))
        for head in range(heads):
            source = states.ctypes.data + start * 3 * row + head * width * 2
            target = attended.ctypes.data + start * row + head * width * 2
            gather(source + row, 3 * row, length, width, room.plain)
            lay_out_transposed(room.plain, length, width, room.key)
            gather(source + 2 * row, 3 * row, length, width, room.plain)
            lay_out(room.plain, length, width, room.value)
            _attend_head(room, length, width, factor, source, target, row, levels[head, start : start + length])
    restore(base)
