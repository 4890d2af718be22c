"""Gradients of a linear layer's weights by the tiles of a processor with AMX, compiled by numba.

A product over tokens: oneDNN takes it, with its left factor transposed, at half of the speed of others. Here both
factors are laid out as tiles, a chunk of tokens at a time, so that what is read again and again stays in the
processor's second cache, and sums stay in float32.

Names: T tokens; a narrow factor [T, M] and a wide one [T, N], bfloat16, M and N multiples of 32. All is addressed in
bytes; ``scratch`` is kept alive by Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import CONFIG, LINE, TILE, add_products, configure, interleave, restore, transpose
from finerank.models.vectors import LANES, filled, load, load_bfloat16, prefetch, prefetch_write, store

STEP = 32
"""Tokens of a tile."""
HELD = 2**20
"""Bytes of the narrow factor that are held as tiles: half of a second cache."""


@njit
def chunk_of(narrow):
    """Return how many tokens are taken at a time."""
    return max(HELD // (2 * narrow) // STEP, 1) * STEP


def scratch_size(narrow: int) -> int:
    """Return the bytes of scratch memory for a narrow factor of this width."""
    return CONFIG + TILE + 64 + 2 * chunk_of.py_func(narrow) * (narrow + 2 * LANES)


class _Room(NamedTuple):
    """Where a chunk lies: a tile of pairs, a row of zeros, the narrow factor as tiles, 32 columns of the wide one."""

    pairs: int
    nothing: int
    held: int
    strip: int


@njit
def _room(base, chunk, narrow):
    pairs = base + CONFIG
    held = pairs + TILE + 64
    return _Room(pairs, pairs + TILE, held, held + 2 * chunk * narrow)


@njit
def _lay_out(rows, count, first, last, column, columns, across, room, sums, target):
    """Write tokens ``first`` to ``last`` of 32 columns of [T, columns] as two rows of tiles: of pairs, or transposed
    (``across``). Tokens from ``count`` on are zeros. The columns' sums are added to ``sums``, float32 [32].
    """
    steps = (last - first) // STEP
    for block in range(first, last, STEP):
        for half in range(2):
            whole = load(sums + 64 * half)
            tile = target + (steps * half + (block - first) // STEP) * TILE
            aim = room.pairs if across else tile
            for pair in range(STEP // 2):
                row = block + 2 * pair
                at = rows + (row * columns + column + LANES * half) * 2
                upper = at if row < count else room.nothing
                lower = at + 2 * columns if row + 1 < count else room.nothing
                if half == 0:  # the next call's columns, half a page or more apart: the processor would not see it
                    prefetch(upper + LINE)
                    prefetch(lower + LINE)
                whole = whole + (load_bfloat16(upper) + load_bfloat16(lower))
                interleave(upper, lower, aim + 64 * pair)
            store(sums + 64 * half, whole)
            if across:
                transpose(room.pairs, 64, tile, 64)


@njit(nogil=True, error_model="numpy", cache=True)
def over_tokens(first, last, narrow, wide, product, across, narrow_sums, wide_sums, scratch):
    """Write columns ``first`` to ``last``, multiples of 32, of narrow' wide, float32 [M, N], and the columns' sums.

    Args:
        across: [N, M] for the product's transpose, or empty.
        narrow_sums: of all columns, whatever those of the product.
    """
    count, width = narrow.shape
    columns = wide.shape[1]
    chunk = chunk_of(width)
    room = _room(scratch.ctypes.data, chunk, width)
    stride = 4 * columns
    store(room.nothing, filled(np.float32(0)))
    for column in range(0, width, LANES):
        store(narrow_sums.ctypes.data + 4 * column, filled(np.float32(0)))
    for column in range(first, last, LANES):
        store(wide_sums.ctypes.data + 4 * column, filled(np.float32(0)))
    configure(scratch.ctypes.data)
    for start in range(0, count, chunk):
        steps = (min(chunk, count - start) + STEP - 1) // STEP
        end = start + steps * STEP
        for column in range(0, width, 2 * LANES):
            sums, tiles = narrow_sums.ctypes.data + 4 * column, room.held + column // LANES * steps * TILE
            _lay_out(narrow.ctypes.data, count, start, end, column, width, True, room, sums, tiles)
        for column in range(first, last, 2 * LANES):
            sums = wide_sums.ctypes.data + 4 * column
            _lay_out(wide.ctypes.data, count, start, end, column, columns, False, room, sums, room.strip)
            for row in range(0, width, 2 * LANES):
                aim = product.ctypes.data + row * stride + 4 * column
                for nth in range(2 * LANES):  # what is written next: a store waits for its line
                    prefetch_write(aim + (2 * LANES + nth) * stride)
                    prefetch_write(aim + (2 * LANES + nth) * stride + LINE)
                left, apart = room.held + row // LANES * steps * TILE, steps * TILE
                add_products(left, apart, room.strip, apart, steps, aim, stride, start == 0)
    restore(scratch.ctypes.data)
    if across.size:
        for column in range(first, last, LANES):
            for row in range(0, width, LANES):
                source, target = product.ctypes.data + row * stride, across.ctypes.data + 4 * column * width
                transpose(source + 4 * column, stride, target + 4 * row, 4 * width)
