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

from finerank.models.amx import CONFIG, LINE, TILE, add_products, configure, interleave_summing, restore, turn_summing
from finerank.models.compiled import kept
from finerank.models.layer_kernels import as_tiles, as_usual, place_of
from finerank.models.vectors import (
    LANES,
    filled,
    load,
    load_bfloat16,
    prefetch,
    prefetch_write,
    store,
    store_bfloat16,
)

STEP = 32
"""Tokens of a tile."""
HELD = 2**19
"""Bytes of the narrow factor that are held as tiles: a quarter of a second cache."""
BESIDE = 2**19
"""Bytes of the wide factor that are laid out at a time, as many."""


@njit
def chunk_of(narrow):
    """Return how many tokens are taken at a time."""
    return max(HELD // (2 * narrow) // STEP, 1) * STEP


@njit
def strips_of(chunk):
    """Return how many times 32 columns of the wide factor are laid out at a time."""
    return max(BESIDE // (2 * chunk * STEP), 1)


def scratch_size(narrow: int) -> int:
    """Return the bytes of scratch memory for a narrow factor of this width."""
    chunk = chunk_of.py_func(narrow)
    return CONFIG + 2 * TILE + 2 * chunk * (narrow + STEP * strips_of.py_func(chunk))


class _Room(NamedTuple):
    """Where a chunk lies: a block of tokens with zeros behind the last one, the narrow factor as tiles, some columns of
    the wide one.
    """

    padded: int
    held: int
    beside: int


@njit
def _room(base, chunk, narrow):
    padded = base + CONFIG
    held = padded + 2 * TILE
    return _Room(padded, held, held + 2 * chunk * narrow)


@njit
def _pad(rows, stride, count, target):
    """Write ``count`` rows of 32 bfloat16 one behind the other, and zeros for the others of 32."""
    for row in range(STEP):
        for half in range(0, LINE, LINE // 2):
            number = load_bfloat16(rows + row * stride + half) if row < count else filled(np.float32(0))
            store_bfloat16(target + row * LINE + half, number)


@njit
def _lay_out(rows, first, block, count, steps, strips, turned, padded, sums, target):
    """Write ``strips`` times 32 columns of ``count`` tokens, each as two rows of ``steps`` tiles: of pairs, or turned.

    They are ``Rows`` from ``first`` on, a multiple of 32, their columns those from 32 times ``block`` on. The columns'
    sums are added to ``sums``, float32.

    Rows are read from left to right, and asked for ahead: column after column takes three times as long, as what is
    read next then lies in another page each time.
    """
    for step in range(steps):
        for strip in range(strips):
            token, column = first + step * STEP, block + strip
            at, following, apart = place_of(rows, token, column), place_of(rows, token + STEP, column), rows.apart
            for row in range(STEP):
                prefetch(following + row * apart)
            if (step + 1) * STEP > count:
                _pad(at, apart, count - step * STEP, padded)
                at, apart = padded, LINE
            tile = target + (2 * strip * steps + step) * TILE
            place = sums + 2 * LINE * strip
            low, high = load(place), load(place + LINE)
            if turned:
                low = turn_summing(at, apart, tile, low)
                high = turn_summing(at + LINE // 2, apart, tile + steps * TILE, high)
            else:
                for pair in range(0, TILE, LINE):
                    low = interleave_summing(at, at + apart, tile + pair, low)
                    high = interleave_summing(at + LINE // 2, at + apart + LINE // 2, tile + steps * TILE + pair, high)
                    at += 2 * apart
            store(place, low)
            store(place + LINE, high)


@kept
def over_tokens(first, last, narrow, wide, tiled, product, narrow_sums, wide_sums, scratch):
    """Write what columns ``first`` to ``last`` of the wide factor, multiples of 32, have of the product over tokens.

    Args:
        tiled: the factors are tiles, T a multiple of 32 (``layer_kernels.as_tiles``).
        product: narrow' wide, float32 [M, N], or wide' narrow [N, M]; the latter where N = M.
        narrow_sums, wide_sums: the columns' sums, float32; the narrow factor's are of all columns.
    """
    count, width = narrow.shape
    columns = wide.shape[1]
    rows, wide_rows = as_usual(narrow.ctypes.data, 2 * width), as_usual(wide.ctypes.data, 2 * columns)
    if tiled:
        rows, wide_rows = as_tiles(narrow.ctypes.data, 2 * width), as_tiles(wide.ctypes.data, 2 * columns)
    leads = product.shape[0] == columns  # the wide factor's columns are the product's rows
    chunk = chunk_of(width)
    strips = strips_of(chunk)
    room = _room(scratch.ctypes.data, chunk, width)
    stride = 4 * product.shape[1]
    down, right = (4 * STEP, STEP * stride) if leads else (STEP * stride, 4 * STEP)
    for column in range(0, width, LANES):
        store(narrow_sums.ctypes.data + 4 * column, filled(np.float32(0)))
    for column in range(first, last, LANES):
        store(wide_sums.ctypes.data + 4 * column, filled(np.float32(0)))
    configure(scratch.ctypes.data)
    for start in range(0, count, chunk):
        tokens = min(chunk, count - start)
        steps = (tokens + STEP - 1) // STEP
        apart = steps * TILE
        _lay_out(
            rows, start, 0, tokens, steps, width // STEP, not leads, room.padded, narrow_sums.ctypes.data, room.held
        )
        for place in range(first, last, STEP * strips):
            here = min(strips, (last - place) // STEP)
            sums, block = wide_sums.ctypes.data + 4 * place, place // STEP
            _lay_out(wide_rows, start, block, tokens, steps, here, leads, room.padded, sums, room.beside)
            for strip in range(here):
                beside, aim = room.beside + 2 * strip * apart, product.ctypes.data + (block + strip) * right
                for nth in range(width // STEP):
                    held = room.held + 2 * nth * apart
                    for row in range(0, STEP * stride, stride):  # what is written next: a store waits for its line
                        prefetch_write(aim + down + row)
                        prefetch_write(aim + down + row + LINE)
                    factors = (beside, held) if leads else (held, beside)
                    add_products(factors[0], apart, factors[1], apart, steps, aim, stride, start == 0)
                    aim += down
    restore(scratch.ctypes.data)
