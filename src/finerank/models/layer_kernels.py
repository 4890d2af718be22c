"""A linear layer of some tokens by the tiles of a processor with AMX, compiled by numba: what blocks of bfloat16 share.

Products are of 32 tokens and 32 outputs at a time, and add up in float32; what is done with the sums before they are
rounded (bias, activation, residual) is a function that the block gives.

Names: K inputs and N outputs of a layer. All is addressed in bytes. Behind the tokens that are said to be there memory
for 31 more may be read, and is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import njit

from finerank.models.amx import CONFIG, LINE, TILE, tile_add_product, tile_load, transpose, write_sums, zero_sums
from finerank.models.compiled import kept
from finerank.models.vectors import load, prefetch, prefetch_near, prefetch_write, store_pairs, store_two

ROWS = 32
"""Tokens that are computed at a time."""
BLOCK = 32
"""Outputs of a layer that are computed at a time."""
SUMS = 4 * TILE
"""Bytes of the sums of a product."""


LAYING_OUT = CONFIG + TILE
"""Bytes of scratch memory for laying out weights."""


class Weights(NamedTuple):
    """A layer: bfloat16 [N / 32, K / 32, 2, 16, 16, 2], and its bias, float32 [N]."""

    tiles: Any
    bias: Any


class Rows(NamedTuple):
    """Rows of numbers: where, the bytes of one, how far it is from the next one, 32 numbers from the next 32, and the
    bytes of 32 numbers.

    As they are usually kept, or, by 32 rows, as tiles, which a processor fetches faster.
    """

    at: int
    size: int
    apart: int
    step: int
    wide: int


@njit
def as_usual(at, size):
    """Return rows of bfloat16 that follow each other."""
    return Rows(at, size, size, 2 * BLOCK, 2 * BLOCK)


@njit
def as_reals(at, size):
    """Return rows of float32 that follow each other."""
    return Rows(at, size, size, 4 * BLOCK, 4 * BLOCK)


@njit
def as_tiles(at, size):
    """Return rows of bfloat16 by tiles."""
    return Rows(at, size, 2 * BLOCK, 2 * TILE, 2 * BLOCK)


@njit
def place_of(rows, first, block):
    """Return where 32 numbers of row ``first``, a multiple of 32, lie."""
    return rows.at + first * rows.size + block * rows.step


@njit
def row_of(rows, row):
    """Return where a row begins."""
    return rows.at + row // ROWS * ROWS * rows.size + row % ROWS * rows.apart


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


def applying(write: Callable[..., None]) -> Any:
    """Return a kernel that computes a layer of [count, K], both it and the outputs, ``target``, ``Rows``.

    Its further arguments are where the layer's weights lie, bfloat16 [N / 32, K / 32, 2, 16, 16, 2], K / 32 and N / 32
    (:func:`of`); memory for the sums of a product; and what ``write`` is given.

    Args:
        write: compiled, called with what it is given, the outputs, a block's number, the first row's, how many rows,
            and the sums. It writes them.
    """

    def apply(source, count, tiles, steps, blocks, sums, target, given):
        size = steps * 2 * TILE
        for block in range(blocks):
            right = tiles + block * size
            for first in range(0, count, ROWS):
                aim, rows = place_of(target, first, block), min(ROWS, count - first)
                for row in range(rows):
                    for line in range(0, target.wide, LINE):
                        prefetch_write(aim + row * target.apart + line)
                _fetch(right + size, size, first, count)
                _add_products(source.at + first * source.size, source, steps, right, sums)
                write(given, target, block, first, rows, sums)

    # Compiled code is told apart by module and name, numbers behind them count anew in each process: out of what is
    # kept on disk, one would be taken for another of the same name.
    apply.__module__, apply.__qualname__ = write.__module__, f"applying{write.__name__}"
    return njit(apply)


@njit
def of(tiles):
    """Return what such a kernel wants of a layer's weights: where they lie, their blocks of inputs and of outputs."""
    blocks, steps = tiles.shape[:2]
    return tiles.ctypes.data, steps, blocks


@njit
def _write_biased(bias, target, block, first, rows, sums):
    """Write sums of products plus biases as bfloat16."""
    aim, bias = place_of(target, first, block), bias + 4 * BLOCK * block
    for row in range(rows):
        left, right = load(sums + 128 * row) + load(bias), load(sums + 128 * row + 64) + load(bias + 64)
        store_two(aim + row * target.apart, left, right)


apply_biased = applying(_write_biased)


@kept
def lay_out(first, last, weights, forth, back, scratch):
    """Lay out a layer's weights for ``applying``: of the layer, and of the way back through it.

    Args:
        first, last: of the blocks of 32 outputs.
        weights: of layers of the same size that stand side by side, float32 [N / layers, K].
        forth, back: bfloat16 [N / 32, K / 32, 2, 16, 16, 2] and [K / 32, N / 32, 2, 16, 16, 2].
    """
    outputs, inputs = weights[0].shape
    steps, blocks = inputs // BLOCK, len(weights) * outputs // BLOCK
    rounded = scratch.ctypes.data + CONFIG
    for block in range(first, last):
        part, row = block * BLOCK // outputs, block * BLOCK % outputs
        rows = weights[part].ctypes.data + row * inputs * 4
        for step in range(steps):
            source = rows + 4 * BLOCK * step
            there = forth.ctypes.data + (block * steps + step) * 2 * TILE
            again = back.ctypes.data + (step * blocks + block) * 2 * TILE
            for half in range(2):
                for nth in range(16):
                    at = source + (16 * half + nth) * inputs * 4
                    store_two(rounded + 64 * nth, load(at), load(at + 64))
                transpose(rounded, 64, there + half * TILE, 64)
                for pair in range(16):
                    at = source + 2 * pair * inputs * 4 + 64 * half
                    store_pairs(again + half * TILE + 64 * pair, load(at), load(at + inputs * 4))
