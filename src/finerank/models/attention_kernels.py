"""Attention by the tiles of a processor with AMX, compiled by numba: one way, and back for training.

Each input's heads are computed one by one from the packed queries, keys and values, 16 rows of scores at a time, which
stay in the processor's first cache from the product that makes them to the product that uses them up (the way of
FlashAttention, Dao et al. 2022, without its blocks of keys: an encoder's inputs are short). Products are of bfloat16
and add up in float32.

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
    FARTHEST,
    LANES,
    filled,
    larger,
    largest,
    load,
    load_bfloat16,
    load_filled,
    power_of_two,
    shade,
    store,
    store_bfloat16,
    store_one,
    total,
)

LOG2E = math.log2(math.e)
ROWS = 16
"""Rows of scores that are computed at a time."""


def scratch_size(longest: int, width: int) -> int:
    """Return the bytes of scratch memory for inputs of up to ``longest`` positions."""
    rows, scores = 2 * padded.py_func(longest) * width, 4 * ROWS * padded.py_func(longest)
    return CONFIG + 11 * rows + 3 * scores + 4 * ROWS * width + TILE + 4 * 4 * padded.py_func(longest)


@njit
def padded(length):
    return (length + 31) // 32 * 32


@njit
def _gather(source, stride, length, width, target):
    """Copy rows [L, D] that lie ``stride`` apart to [P, D]; zeros behind them."""
    for row in range(padded(length)):
        for part in range(width // 32):
            words = load(source + row * stride + 64 * part) if row < length else filled(np.float32(0))
            store(target + row * width * 2 + 64 * part, words)


@njit
def _lay_out(rows, length, width, target):
    """Lay out [P, D] as a right factor: tiles [P / 32, D / 16]."""
    for block in range(padded(length) // 32):
        for part in range(width // 16):
            for pair in range(16):
                first = rows + (32 * block + 2 * pair) * width * 2 + 32 * part
                interleave(first, first + width * 2, target + (block * (width // 16) + part) * TILE + 64 * pair)


@njit
def _lay_out_transposed(rows, length, width, target):
    """Lay out [P, D], transposed, as a right factor: tiles [P / 16, D / 32]."""
    for block in range(padded(length) // 16):
        for part in range(width // 32):
            tile = target + (block * (width // 32) + part) * TILE
            transpose(rows + block * 32 * width + 64 * part, width * 2, tile, 64)


@njit
def _scores(left, right, length, width, shades, target):
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
def _weighted(left, right, length, width, target):
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
def _scatter(source, count, width, factor, target, stride):
    """Write float32 [count, D], times a number, as rows of bfloat16 that lie ``stride`` apart."""
    factors = filled(factor)
    for row in range(count):
        for part in range(width // LANES):
            store_bfloat16(target + row * stride + 32 * part, load(source + (row * width + LANES * part) * 4) * factors)


@njit
def _shade(length, target):
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
        _shade(length, shades)
        for head in range(heads):
            source = states.ctypes.data + start * 3 * row + head * width * 2
            target = attended.ctypes.data + start * row + head * width * 2
            _gather(source, 3 * row, length, width, query)
            _gather(source + row, 3 * row, length, width, plain)
            _lay_out_transposed(plain, length, width, key)
            _gather(source + 2 * row, 3 * row, length, width, plain)
            _lay_out(plain, length, width, value)
            for first in range(0, length, ROWS):
                count = min(ROWS, length - first)
                _scores(query + first * width * 2, key, length, width, shades, scores)
                _softmax(scores, count, length, factor, weights, sums, shifts)
                _weighted(weights, value, length, width, output)
                for nth in range(count):
                    whole = total(load(sums + 64 * nth))
                    if levels.size:
                        levels[head, start + first + nth] = shifts[nth] + np.float32(math.log2(whole))
                    at = target + (first + nth) * row
                    _scatter(output + nth * width * 4, 1, width, np.float32(1) / whole, at, row)
    restore(base)


@njit
def _slopes(scores, others, columns, factor, levels, deltas, by_row, weights, slopes):
    """Write the weights [16, P] of scores [16, P] again, and their slopes: weight times other less delta.

    Levels and deltas are the rows' own (``by_row``), or the columns'.
    """
    factors = filled(factor)
    for row in range(ROWS):
        level, delta = load_filled(levels + 4 * row), load_filled(deltas + 4 * row)
        for block in range(columns // LANES):
            place = row * columns + LANES * block
            if not by_row:
                level, delta = load(levels + 64 * block), load(deltas + 64 * block)
            weight = power_of_two(load(scores + 4 * place) * factors - level)
            store_bfloat16(weights + 2 * place, weight)
            store_bfloat16(slopes + 2 * place, weight * (load(others + 4 * place) - delta))


@njit
def _level(levels, result, stride, above, width, level, delta):
    """Write each position's level, and its delta: a sum of results times gradients; padding weighs nothing."""
    length = len(levels)
    for position in range(padded(length)):
        inside = position < length
        both = filled(np.float32(0))
        for part in range(width // LANES if inside else 0):
            of_result = load_bfloat16(result + position * stride + 32 * part)
            both = both + of_result * load_bfloat16(above + (position * width + LANES * part) * 2)
        store_one(delta + 4 * position, total(both))
        store_one(level + 4 * position, levels[position] if inside else np.float32(-FARTHEST))


class _Room(NamedTuple):
    """Where the way back keeps what it needs of a head: rows, the same as right factors, and 16 rows of scores."""

    query: int
    key: int
    value: int
    above: int
    query_right: int
    key_right: int
    above_right: int
    query_across: int
    key_across: int
    value_across: int
    above_across: int
    scores: int
    others: int
    weights: int
    slopes: int
    output: int
    shades: int
    nothing: int
    level: int
    delta: int


@njit
def _room(base, longest, width):
    rows, scores = 2 * width * longest, 4 * ROWS * longest
    first = base + CONFIG
    behind = first + 11 * rows
    output = behind + 3 * scores
    shades = output + 4 * ROWS * width
    return _Room(
        first, first + rows, first + 2 * rows, first + 3 * rows,
        first + 4 * rows, first + 5 * rows, first + 6 * rows,
        first + 7 * rows, first + 8 * rows, first + 9 * rows, first + 10 * rows,
        behind, behind + scores, behind + 2 * scores, behind + 2 * scores + scores // 2,
        output, shades, shades + 4 * longest, shades + 8 * longest, shades + 12 * longest,
    )  # fmt: skip


@njit
def _head_back(room, length, width, scale, target, stride):
    """Write the gradients of a head's queries, keys and values; ``stride`` is from row to row.

    With weights W = softmax(scale Q K') and G the gradient of W V: that of V is W' G; slopes S = W (G V' - delta),
    delta a row's sum of results times G; those of Q and K are scale S K and scale S' Q. Scores are computed twice, by
    rows of queries and by rows of keys, so that each sum is one product over whole tiles.
    """
    factor = np.float32(scale * LOG2E)
    columns = padded(length)
    for first in range(0, length, ROWS):
        count, rows, aim = min(ROWS, length - first), 2 * first * width, target + first * stride
        _scores(room.query + rows, room.key_across, length, width, room.shades, room.scores)
        _scores(room.above + rows, room.value_across, length, width, room.nothing, room.others)
        level, delta = room.level + 4 * first, room.delta + 4 * first
        _slopes(room.scores, room.others, columns, factor, level, delta, True, room.weights, room.slopes)
        _weighted(room.slopes, room.key_right, length, width, room.output)
        _scatter(room.output, count, width, scale, aim, stride)
        _scores(room.key + rows, room.query_across, length, width, room.nothing, room.scores)
        _scores(room.value + rows, room.above_across, length, width, room.nothing, room.others)
        level, delta = room.level, room.delta
        _slopes(room.scores, room.others, columns, factor, level, delta, False, room.weights, room.slopes)
        _weighted(room.slopes, room.query_right, length, width, room.output)
        _scatter(room.output, count, width, scale, aim + stride // 3, stride)
        _weighted(room.weights, room.above_right, length, width, room.output)
        _scatter(room.output, count, width, np.float32(1), aim + stride // 3 * 2, stride)


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
        _shade(length, room.shades)
        for head in range(heads):
            inside = head * width * 2
            source = states.ctypes.data + start * 3 * row + inside
            result = attended.ctypes.data + start * row + inside
            _gather(source, 3 * row, length, width, room.query)
            _gather(source + row, 3 * row, length, width, room.key)
            _gather(source + 2 * row, 3 * row, length, width, room.value)
            _gather(gradient.ctypes.data + start * row + inside, row, length, width, room.above)
            _lay_out(room.query, length, width, room.query_right)
            _lay_out(room.key, length, width, room.key_right)
            _lay_out(room.above, length, width, room.above_right)
            _lay_out_transposed(room.query, length, width, room.query_across)
            _lay_out_transposed(room.key, length, width, room.key_across)
            _lay_out_transposed(room.value, length, width, room.value_across)
            _lay_out_transposed(room.above, length, width, room.above_across)
            _level(levels[head, start : start + length], result, row, room.above, width, room.level, room.delta)
            target = back.ctypes.data + start * 3 * row + inside
            _head_back(room, length, width, np.float32(scale), target, 3 * row)
    restore(base)
