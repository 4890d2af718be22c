"""An encoder's block in bfloat16, for inference, by the tiles of a processor with AMX, compiled by numba.

Some inputs at a time go through the block, so that attention finds its queries, keys and values in the processor's
second cache, and each layer what the one before left. Products add up in float32; bias, activation, residual and norm
are computed before anything is rounded.

Names: T tokens of W numbers, inner width F. All is addressed in bytes; ``scratch`` is kept alive by Python. Products
are of 32 tokens at a time: behind what is said to be there, memory for 31 more may be read, and is not used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import (
    CONFIG,
    LINE,
    TILE,
    configure,
    restore,
    tile_add_product,
    tile_load,
    write_sums,
    zero_sums,
)
from finerank.models.attention_kernels import attend
from finerank.models.norm_kernels import write_norm
from finerank.models.vector_functions import gelu
from finerank.models.vectors import (
    load,
    load_bfloat16,
    prefetch,
    prefetch_near,
    prefetch_write,
    store,
    store_two,
)

ROWS = 32
"""Tokens that are computed at a time."""
BLOCK = 32
"""Outputs of a layer that are computed at a time."""


class Weights(NamedTuple):
    """A layer: bfloat16 [N / 32, K / 32, 2, 16, 16, 2], and its bias, float32 [N]."""

    tiles: Any
    bias: Any


def scratch_size(width: int, inner: int, count: int) -> int:
    """Return the bytes of scratch memory for a block of which ``count`` tokens are computed at a time."""
    return CONFIG + 4 * TILE + (count + ROWS) * (4 * width + 2 * width + 2 * inner)


class _Rows(NamedTuple):
    """Rows of bfloat16: where, how far one is from the next, and 32 numbers of a row from the next 32.

    As they are usually kept, or, by 32 rows, as tiles, which a processor fetches faster.
    """

    at: int
    apart: int
    step: int


@njit
def _as_usual(at, width):
    return _Rows(at, 2 * width, 2 * BLOCK)


@njit
def _as_tiles(at):
    return _Rows(at, 2 * BLOCK, 2 * TILE)


@njit
def _expect(at, apart):
    """Have eight rows of a tile brought into the first cache; what else it is good for, see ``amx.expect_near``."""
    for row in range(8):
        prefetch_near(at + row * apart)


@njit
def _fetch(at, size, first, count):
    """Have what ``size`` bytes a block's weights take brought into the second cache, by and by as ``first`` counts."""
    for line in range(size * first // count // LINE, min(size * (first + ROWS) // count, size) // LINE):
        prefetch(at + LINE * line)


@njit
def _add_products(left, rows, steps, right, sums):
    """Write [32, K] times a block of a layer [K, 32] as float32 [32, 32]; ``left`` is where the 32 rows begin."""
    zero_sums()
    apart, half = rows.apart, 16 * rows.apart
    for step in range(steps):
        at, tiles = left + step * rows.step, right + step * 2 * TILE
        following = at + rows.step
        tile_load(4, at, apart)
        tile_load(5, at + half, apart)
        tile_load(6, tiles, 64)
        tile_load(7, tiles + TILE, 64)
        _expect(following, apart)
        tile_add_product(0, 4, 6)
        _expect(following + 8 * apart, apart)
        tile_add_product(1, 4, 7)
        _expect(following + half, apart)
        tile_add_product(2, 5, 6)
        _expect(following + half + 8 * apart, apart)
        tile_add_product(3, 5, 7)
    write_sums(sums, 4 * BLOCK)


@njit
def _apply(source, count, weights, inner, activated, target, sums):
    """Write a layer of [count, K], or GELU of it, as bfloat16 [count, N]; both are ``_Rows``."""
    columns, steps = len(weights.bias), inner // 32
    for block in range(columns // BLOCK):
        right = weights.tiles.ctypes.data + block * steps * 2 * TILE
        bias = weights.bias.ctypes.data + 4 * BLOCK * block
        for first in range(0, count, ROWS):
            aim, rows = target.at + first * columns * 2 + block * target.step, min(ROWS, count - first)
            for row in range(rows):
                prefetch_write(aim + row * target.apart)
            _fetch(right + steps * 2 * TILE, steps * 2 * TILE, first, count)
            _add_products(source.at + first * inner * 2, source, steps, right, sums)
            for row in range(rows):
                left, other = load(sums + 128 * row) + load(bias), load(sums + 128 * row + 64) + load(bias + 64)
                if activated:
                    left, other = gelu(left), gelu(other)
                store_two(aim + row * target.apart, left, other)


@njit
def _add(source, count, weights, inner, residual, target, sums):
    """Write a layer of [count, K] plus a residual, both ``_Rows``, as float32 [count, N]."""
    columns, steps = len(weights.bias), inner // 32
    for block in range(columns // BLOCK):
        right = weights.tiles.ctypes.data + block * steps * 2 * TILE
        bias = weights.bias.ctypes.data + 4 * BLOCK * block
        for first in range(0, count, ROWS):
            aim, rows = target + (first * columns + block * BLOCK) * 4, min(ROWS, count - first)
            for row in range(rows):
                prefetch_write(aim + row * columns * 4)
                prefetch_write(aim + row * columns * 4 + 64)
            _fetch(right + steps * 2 * TILE, steps * 2 * TILE, first, count)
            _add_products(source.at + first * inner * 2, source, steps, right, sums)
            for row in range(rows):
                at = residual.at + first * columns * 2 + block * residual.step + row * residual.apart
                for half in range(2):
                    outputs = load(sums + 128 * row + 64 * half) + load(bias + 64 * half)
                    store(aim + row * columns * 4 + 64 * half, outputs + load_bfloat16(at + 32 * half))


@njit
def _norm(source, count, width, norm, target):
    """Write the layer norm of float32 [count, W] as ``_Rows``."""
    for row in range(count):
        aim = target.at + row // ROWS * ROWS * width * 2 + row % ROWS * target.apart
        write_norm(source + row * width * 4, width, norm, aim, target.step)


@njit
def _finish(count, attended, tokens, layers, norms, out, scratch):
    """Compute what stands behind the attention for [count, W] of bfloat16, the three of them addresses.

    Args:
        attended: the heads' outputs; ``tokens`` went into the block.
        layers: the attention's output, the feed-forward layers up and down; ``norms`` behind the first and the last.
    """
    output, up, down = layers
    width, inner, most = len(output.bias), len(up.bias), count + ROWS
    sums = scratch + CONFIG
    reals = sums + 4 * TILE
    middle = _as_tiles(reals + 4 * most * width)
    wide = _as_tiles(middle.at + 2 * most * width)
    configure(scratch)
    _add(_as_usual(attended, width), count, output, width, _as_usual(tokens, width), reals, sums)
    _norm(reals, count, width, norms[0], middle)
    _apply(middle, count, up, width, True, wide, sums)
    _add(wide, count, down, inner, middle, reals, sums)
    _norm(reals, count, width, norms[1], _as_usual(out, width))
    restore(scratch)


@njit(nogil=True, error_model="numpy", cache=True)
def block(first, last, chunks, starts, tokens, projections, layers, norms, rooms, out, scratch):
    """Compute chunks ``first`` to ``last`` of a batch: bfloat16 tokens [T, W] -> [T, W].

    Args:
        chunks: numbers of the inputs that chunks begin with; ``starts``: where inputs begin; the end behind the last.
        rooms: for a chunk's queries, keys and values [C, 3 W], the same as [C, 3, H, D], what is attended [C, W], the
            same as [C, H, D], and none of attention's levels, float32 [H, 0]. Each thread's own, so that they stay in
            its second cache.
    """
    states, by_head, attended, attended_by_head, levels = rooms
    _, width = tokens.shape
    base = scratch.ctypes.data
    for chunk in range(first, last):
        begin, end = chunks[chunk], chunks[chunk + 1]
        own = starts[begin : end + 1] - starts[begin]
        count, at = own[-1], starts[begin] * width * 2
        source, aim = tokens.ctypes.data + at, out.ctypes.data + at
        configure(base)
        target = _as_usual(states.ctypes.data, 3 * width)
        _apply(_as_usual(source, width), count, projections, width, False, target, base + CONFIG)
        restore(base)
        attend(own, np.float64(by_head.shape[3]) ** -0.5, by_head, attended_by_head, levels, scratch)
        _finish(count, attended.ctypes.data, source, layers, norms, aim, base)
