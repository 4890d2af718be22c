"""The way back through attention by the tiles of a processor with AMX, compiled by numba; one way: attention_kernels.

Weights are computed again from the scores and each row's level, not kept (FlashAttention's way, Dao et al. 2022). They
and their slopes come out row by row and are laid out as right factors where they are written, so that each of the five
products is computed once, over whole tiles.

Names: as in ``attention_kernels``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import (
    CONFIG,
    TILE,
    add_products,
    configure,
    expect_near,
    interleave,
    restore,
    tile_add_product,
    tile_load,
    tile_store,
    tile_zero,
    transpose,
)
from finerank.models.attention_kernels import LOG2E, expect, gather, lay_out, lay_out_transposed, padded
from finerank.models.vector_functions import power_of_two
from finerank.models.vectors import (
    FARTHEST,
    LANES,
    filled,
    load,
    load_bfloat16,
    load_filled,
    prefetch,
    shade,
    store,
    store_bfloat16,
    store_one,
    store_pairs,
    total,
)

ROWS = 16
"""Rows of scores that are computed at a time."""
CHUNK = 256
"""Rows of weights that are kept at a time; a multiple of 32."""


def scratch_size(longest: int, width: int) -> int:
    """Return the bytes of scratch memory for inputs of up to ``longest`` positions."""
    columns = padded.py_func(longest)
    rows, scores, chunk = 2 * columns * width, 4 * ROWS * columns, 2 * columns * min(CHUNK, columns)
    return CONFIG + 13 * rows + 3 * scores + 2 * chunk + 4 * ROWS * width + 4 * 4 * columns + TILE


@njit
def _write_scores(left, right, length, width, shades, target):
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
            expect_near(tile + 2 * steps * TILE)
            tile_add_product(0, 4, 5)
            expect_near(tile + 3 * steps * TILE)
            tile_add_product(1, 4, 6)
        tile_store(0, target + 128 * block, columns * 4)
        tile_store(1, target + 128 * block + 64, columns * 4)


@njit
def _weigh(left, right, length, width, target):
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
            expect_near(tile + width // 16 * TILE)
            tile_add_product(0, 4, 5)
            expect_near(tile + width // 16 * TILE + TILE)
            tile_add_product(1, 4, 6)
        tile_store(0, target + 128 * part, width * 4)
        tile_store(1, target + 128 * part + 64, width * 4)


@njit
def _scatter(source, count, width, factor, target, stride):
    """Write float32 [count, D], times a number, as rows of bfloat16 that lie ``stride`` apart."""
    factors = filled(factor)
    for row in range(count):
        for part in range(width // LANES):
            store_bfloat16(target + row * stride + 32 * part, load(source + (row * width + LANES * part) * 4) * factors)


@njit
def _shade_columns(length, target):
    """Write P numbers: 0 for positions, the farthest for padding."""
    for block in range(padded(length) // LANES):
        store(target + 64 * block, shade(length - LANES * block))


@njit
def _turn(rows, length, width, pairs, target):
    """Lay out [P, D], transposed, as a left factor: tiles [D / 16, P / 32]."""
    blocks = padded(length) // 32
    for part in range(width // 16):
        for block in range(blocks):
            for pair in range(16):
                first = rows + (32 * block + 2 * pair) * width * 2 + 32 * part
                interleave(first, first + width * 2, pairs + 64 * pair)
            transpose(pairs, 64, target + (part * blocks + block) * TILE, 64)


@njit
def _slopes(scores, others, columns, factor, levels, deltas, slopes, apart, weights_right, slopes_right):
    """Write the weights [16, P] of scores [16, P] again, and their slopes: weight times other less delta.

    Slopes are written as they are, both as half of the tiles of right factors, which lie ``apart``.
    """
    factors = filled(factor)
    for pair in range(ROWS // 2):
        upper = 2 * pair
        level, delta = load_filled(levels + 4 * upper), load_filled(deltas + 4 * upper)
        lower_level, lower_delta = load_filled(levels + 4 * upper + 4), load_filled(deltas + 4 * upper + 4)
        for block in range(columns // LANES):
            at = upper * columns + LANES * block
            below = at + columns
            weight = power_of_two(load(scores + 4 * at) * factors - level)
            slope = weight * (load(others + 4 * at) - delta)
            lower_weight = power_of_two(load(scores + 4 * below) * factors - lower_level)
            lower_slope = lower_weight * (load(others + 4 * below) - lower_delta)
            store_bfloat16(slopes + 2 * at, slope)
            store_bfloat16(slopes + 2 * below, lower_slope)
            store_pairs(weights_right + block * apart + 64 * pair, weight, lower_weight)
            store_pairs(slopes_right + block * apart + 64 * pair, slope, lower_slope)


@njit
def _level(levels, result, stride, above, width, level, delta):
    """Write each position's level, and its delta: a sum of results times gradients; padding weighs nothing."""
    length = len(levels)
    for position in range(padded(length)):
        inside = position < length
        prefetch(result + position * stride + 2 * width)
        both = filled(np.float32(0))
        for part in range(width // LANES if inside else 0):
            of_result = load_bfloat16(result + position * stride + 32 * part)
            both = both + of_result * load_bfloat16(above + (position * width + LANES * part) * 2)
        store_one(delta + 4 * position, total(both))
        store_one(level + 4 * position, levels[position] if inside else np.float32(-FARTHEST))


class _Room(NamedTuple):
    """Where the way back keeps what it needs of a head: rows, the same as factors, scores, and gradients as sums."""

    query: int
    key: int
    value: int
    above: int
    key_right: int
    key_across: int
    value_across: int
    query_turned: int
    above_turned: int
    scores: int
    others: int
    slopes: int
    output: int
    of_key: int
    of_value: int
    weights_right: int
    slopes_right: int
    shades: int
    nothing: int
    level: int
    delta: int
    pairs: int


@njit
def _room(base, longest, width):
    rows, scores, chunk = 2 * width * longest, 4 * ROWS * longest, 2 * longest * min(CHUNK, longest)
    first = base + CONFIG
    behind = first + 9 * rows
    output = behind + 2 * scores + scores // 2
    of_key = output + 4 * ROWS * width
    right = of_key + 4 * rows
    shades = right + 2 * chunk
    return _Room(
        first, first + rows, first + 2 * rows, first + 3 * rows,
        first + 4 * rows, first + 5 * rows, first + 6 * rows, first + 7 * rows, first + 8 * rows,
        behind, behind + scores, behind + 2 * scores,
        output, of_key, of_key + 2 * rows, right, right + chunk,
        shades, shades + 4 * longest, shades + 8 * longest, shades + 12 * longest, shades + 16 * longest,
    )  # fmt: skip


@njit
def _columns_back(sums, count, width, columns, factor, pairs, target, stride):
    """Write float32 [D, P], transposed, times a number, as rows of bfloat16 [count, D] that lie ``stride`` apart."""
    for first in range(0, count, LANES):
        for part in range(width // LANES):
            transpose(sums + (part * LANES * columns + first) * 4, columns * 4, pairs, 64)
            aim = target + first * stride + 32 * part
            for row in range(min(LANES, count - first)):
                store_bfloat16(aim + row * stride, load(pairs + 64 * row) * filled(factor))


@njit
def _head_back(room, length, width, scale, target, stride):
    """Write the gradients of a head's queries, keys and values; ``stride`` is from row to row.

    With weights W = softmax(scale Q K') and G the gradient of W V: that of V is W' G; slopes S = W (G V' - delta),
    delta a row's sum of results times G; those of Q and K are scale S K and scale S' Q. The latter and that of V are
    computed transposed, as Q' S and G' W, so that what comes out row by row is a right factor; and by chunks of rows.
    """
    factor = np.float32(scale * LOG2E)
    columns = padded(length)
    for start in range(0, columns, CHUNK):
        steps = min(CHUNK, columns - start) // 32
        for first in range(start, start + 32 * steps, ROWS):
            rows, half = 2 * first * width, (first - start) // 32 * TILE + first % 32 // ROWS * TILE // 2
            _write_scores(room.query + rows, room.key_across, length, width, room.shades, room.scores)
            _write_scores(room.above + rows, room.value_across, length, width, room.nothing, room.others)
            level, delta = room.level + 4 * first, room.delta + 4 * first
            weights, slopes, apart = room.weights_right + half, room.slopes_right + half, steps * TILE
            _slopes(room.scores, room.others, columns, factor, level, delta, room.slopes, apart, weights, slopes)
            _weigh(room.slopes, room.key_right, length, width, room.output)
            _scatter(room.output, min(ROWS, length - first), width, scale, target + first * stride, stride)
        for part in range(0, width, 32):
            left, apart = (part // 16 * (columns // 32) + start // 32) * TILE, columns // 32 * TILE
            for column in range(0, columns, 32):
                right, aim = column // 16 * steps * TILE, (part * columns + column) * 4
                query, above = room.query_turned + left, room.above_turned + left
                of_key, of_value = room.of_key + aim, room.of_value + aim
                across, begins = steps * TILE, start == 0
                add_products(query, apart, room.slopes_right + right, across, steps, of_key, columns * 4, begins)
                add_products(above, apart, room.weights_right + right, across, steps, of_value, columns * 4, begins)
    _columns_back(room.of_key, length, width, columns, scale, room.pairs, target + stride // 3, stride)
    _columns_back(room.of_value, length, width, columns, np.float32(1), room.pairs, target + stride // 3 * 2, stride)


@njit(nogil=True, error_model="numpy", cache=True)
def attend_back(starts, scale, states, attended, gradient, back, levels, scratch):
    """Go back: the gradient of attended [T, H, D] -> that of states, ``back`` [T, 3, H, D]; levels are ``attend``'s."""
    _, _, heads, width = states.shape
    row = 2 * heads * width
    longest = padded(np.diff(starts).max())
    base = scratch.ctypes.data
    room = _room(base, longest, width)
    for block in range(longest // LANES):
        store(room.nothing + 64 * block, filled(np.float32(0)))
    configure(base)
    for place in range(len(starts) - 1):
        start, length = starts[place], starts[place + 1] - starts[place]
        _shade_columns(length, room.shades)
        for head in range(heads):
            inside = head * width * 2
            source = states.ctypes.data + start * 3 * row + inside
            result = attended.ctypes.data + start * row + inside
            gather(source, 3 * row, length, width, room.query)
            gather(source + row, 3 * row, length, width, room.key)
            gather(source + 2 * row, 3 * row, length, width, room.value)
            gather(gradient.ctypes.data + start * row + inside, row, length, width, room.above)
            lay_out(room.key, length, width, room.key_right)
            lay_out_transposed(room.key, length, width, room.key_across)
            lay_out_transposed(room.value, length, width, room.value_across)
            _turn(room.query, length, width, room.pairs, room.query_turned)
            _turn(room.above, length, width, room.pairs, room.above_turned)
            _level(levels[head, start : start + length], result, row, room.above, width, room.level, room.delta)
            target = back.ctypes.data + start * 3 * row + inside
            expect(target, row, 3 * length, width)
            _head_back(room, length, width, np.float32(scale), target, 3 * row)
    restore(base)
