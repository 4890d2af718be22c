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
    interleave,
    restore,
    transpose,
)
from finerank.models.attention_kernels import (
    LOG2E,
    ROWS,
    add_up,
    expect,
    gather,
    lay_out,
    lay_out_transposed,
    padded,
    write_scores,
)
from finerank.models.compiled import kept
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
    store_two,
    total,
)

CHUNK = 256
"""Rows of weights that are kept at a time; a multiple of 32."""


def scratch_size(longest: int, width: int) -> int:
    """Return the bytes of scratch memory for inputs of up to ``longest`` positions."""
    columns = padded.py_func(longest)
    rows, chunk = 2 * columns * width, 2 * columns * min(CHUNK, columns)
    slopes, output = 2 * ROWS * columns, 4 * ROWS * width
    return CONFIG + 13 * rows + 16 * TILE + slopes + output + 2 * chunk + 2 * 64 + 2 * 4 * columns + TILE


@njit
def _scatter(source, count, width, factor, target, stride):
    """Write float32 [count, D], times a number, as rows of bfloat16 that lie ``stride`` apart."""
    factors = filled(factor)
    for row in range(count):
        for part in range(width // LANES):
            store_bfloat16(target + row * stride + 32 * part, load(source + (row * width + LANES * part) * 4) * factors)


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
def _slopes(scores, others, factors, level, delta, slopes, blocks, weights_right, slopes_right, apart):
    """Write the weights of scores [32, 32] again, and their slopes: weight times other less delta.

    Slopes are written as two tiles of a left factor, ``blocks`` tiles apart; both as two tiles of right factors, which
    lie ``apart``.
    """
    for pair in range(ROWS // 2):
        row = 2 * pair
        upper, lower = load_filled(level + 4 * row), load_filled(level + 4 * row + 4)
        upper_delta, lower_delta = load_filled(delta + 4 * row), load_filled(delta + 4 * row + 4)
        at, other, aim = scores + 128 * row, others + 128 * row, slopes + row // 16 * blocks * TILE + row % 16 * 64
        weight = power_of_two(load(at) * factors - upper)
        weight_right = power_of_two(load(at + 64) * factors - upper)
        weight_lower = power_of_two(load(at + 128) * factors - lower)
        weight_lower_right = power_of_two(load(at + 192) * factors - lower)
        slope = weight * (load(other) - upper_delta)
        slope_right = weight_right * (load(other + 64) - upper_delta)
        slope_lower = weight_lower * (load(other + 128) - lower_delta)
        slope_lower_right = weight_lower_right * (load(other + 192) - lower_delta)
        store_two(aim, slope, slope_right)
        store_two(aim + 64, slope_lower, slope_lower_right)
        store_pairs(weights_right + 64 * pair, weight, weight_lower)
        store_pairs(weights_right + apart + 64 * pair, weight_right, weight_lower_right)
        store_pairs(slopes_right + 64 * pair, slope, slope_lower)
        store_pairs(slopes_right + apart + 64 * pair, slope_right, slope_lower_right)


@njit
def _rows_back(room, first, length, width, factor, right, apart):
    """Write the slopes of 32 rows as a left factor; and weights and slopes as tiles of right ones, ``apart``, at
    ``right``. A block's scores are on their way while those of the block before become slopes.
    """
    factors, steps, blocks = filled(factor), width // 32, padded(length) // 32
    rows, level, delta = 2 * first * width, room.level + 4 * first, room.delta + 4 * first
    for block in range(blocks + 1):
        if block < blocks:
            keys, buffer = 2 * block * steps * TILE, block % 2 * 4 * TILE
            shades = room.shades if block == length // 32 else 0
            write_scores(room.query + rows, room.key_across + keys, steps, shades, room.scores + buffer)
            write_scores(room.above + rows, room.value_across + keys, steps, 0, room.others + buffer)
        if block > 0:
            buffer, place = (block - 1) % 2 * 4 * TILE, 2 * (block - 1) * apart + right
            weights, slopes, left = room.weights_right + place, room.slopes_right + place, (block - 1) * TILE
            scores, others = room.scores + buffer, room.others + buffer
            _slopes(scores, others, factors, level, delta, room.slopes + left, blocks, weights, slopes, apart)


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
    level: int
    delta: int
    pairs: int


@njit
def _room(base, longest, width):
    rows, chunk = 2 * width * longest, 2 * longest * min(CHUNK, longest)
    first = base + CONFIG
    scores = first + 9 * rows
    slopes = scores + 16 * TILE
    output = slopes + 2 * ROWS * longest
    of_key = output + 4 * ROWS * width
    right = of_key + 4 * rows
    shades = right + 2 * chunk
    level = shades + 2 * 64
    return _Room(
        first, first + rows, first + 2 * rows, first + 3 * rows,
        first + 4 * rows, first + 5 * rows, first + 6 * rows, first + 7 * rows, first + 8 * rows,
        scores, scores + 8 * TILE, slopes, output, of_key, of_key + 2 * rows, right, right + chunk,
        shades, level, level + 4 * longest, level + 8 * longest,
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
            _rows_back(room, first, length, width, factor, (first - start) // 32 * TILE, steps * TILE)
            add_up(room.slopes, room.key_right, columns // 32, width, room.output)
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


@kept
def attend_back(starts, scale, states, attended, gradient, back, levels, scratch):
    """Go back: the gradient of attended [T, H, D] -> that of states, ``back`` [T, 3, H, D]; levels are ``attend``'s."""
    _, _, heads, width = states.shape
    row = 2 * heads * width
    longest = padded(np.diff(starts).max())
    base = scratch.ctypes.data
    room = _room(base, longest, width)
    configure(base)
    for place in range(len(starts) - 1):
        start, length = starts[place], starts[place + 1] - starts[place]
        for part in range(2):
            store(room.shades + 64 * part, shade(length % 32 - LANES * part))
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
