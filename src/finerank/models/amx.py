"""Tiles for numba on a processor with AMX: matrix products, and the layouts that they want.

A tile is one of eight registers, named 0 to 7, of 16 rows of 64 bytes: 16 x 32 bfloat16 (a left factor), 16 x 16 pairs
of bfloat16 (a right factor; row r holds the inner places 2r and 2r + 1) or 16 x 16 float32 (a sum); of int8, 16 x 64,
16 x 16 fours and int32. Addresses and strides are in bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from finerank.models.vectors import (
    BYTE,
    HALVES,
    I64,
    LANES,
    REALS,
    VECTOR,
    WORDS,
    Brain,
    call,
    emitting,
    pointer,
    prefetch_near,
    splat,
)

TILE = 1024
"""Bytes of a tile."""
HALF = TILE // 2
LINE = 64
"""Bytes of a line of the cache."""


@intrinsic
def transpose(context: Any, source: Any, stride: Any, target: Any, apart: Any) -> Any:
    """Write 16 rows of 16 words of 4 bytes, ``stride`` apart, as their transpose, whose rows lie ``apart``."""

    def build(b: Any, source: Any, stride: Any, target: Any, apart: Any) -> None:
        rows = []
        for row in range(LANES):
            at = b.add(source, b.mul(stride, ir.Constant(I64, row)))
            rows.append(b.load(pointer(b, at, WORDS), align=4))
        _write_transposed(b, rows, target, apart)

    return emitting(types.void, [types.int64] * 4, build)


def _write_transposed(b: Any, rows: list[Any], target: Any, apart: Any) -> None:
    # Blocks of 1, 2, 4 and 8 words change places with those across the diagonal.
    size = 1
    while size < LANES:
        lanes = range(LANES)
        upper = [lane if not lane & size else LANES + lane - size for lane in lanes]
        lower = [lane + size if not lane & size else LANES + lane for lane in lanes]
        for row in (row for row in lanes if not row & size):
            pair = rows[row], rows[row + size]
            rows[row] = b.shuffle_vector(*pair, ir.Constant(WORDS, upper))
            rows[row + size] = b.shuffle_vector(*pair, ir.Constant(WORDS, lower))
        size *= 2
    for row, words in enumerate(rows):
        at = b.add(target, b.mul(apart, ir.Constant(I64, row)))
        b.store(words, pointer(b, at, WORDS), align=4)


def _pairs(b: Any, first: Any, second: Any) -> Any:
    """Return 16 bfloat16 at each of two addresses as 16 pairs."""
    low, high = (b.zext(b.load(pointer(b, at, HALVES), align=2), WORDS) for at in (first, second))
    return b.or_(low, b.shl(high, splat(WORDS, 16)))


def _both_added(b: Any, sums: Any, pairs: Any) -> Any:
    """Add both numbers of each pair to a sum."""
    brains = ir.VectorType(Brain(), 2 * LANES)
    ones = b.bitcast(splat(WORDS, 0x3F803F80), brains)
    return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", REALS, sums, b.bitcast(pairs, brains), ones)


@intrinsic
def interleave(context: Any, first: Any, second: Any, target: Any) -> Any:
    """Write 16 bfloat16 of each of two rows as 16 pairs, a row of a right factor."""

    def build(b: Any, first: Any, second: Any, target: Any) -> None:
        b.store(_pairs(b, first, second), pointer(b, target, WORDS), align=4)

    return emitting(types.void, [types.int64, types.int64, types.int64], build)


@intrinsic
def interleave_summing(context: Any, first: Any, second: Any, target: Any, sums: Any) -> Any:
    """The same; return the sums with both rows added."""

    def build(b: Any, first: Any, second: Any, target: Any, sums: Any) -> Any:
        pairs = _pairs(b, first, second)
        b.store(pairs, pointer(b, target, WORDS), align=4)
        return _both_added(b, sums, pairs)

    return emitting(VECTOR, [types.int64, types.int64, types.int64, VECTOR], build)


@intrinsic
def turn_summing(context: Any, source: Any, stride: Any, target: Any, sums: Any) -> Any:
    """Write 32 rows of 16 bfloat16, ``stride`` apart, as a left factor of 16 rows; return the sums with all added."""

    def build(b: Any, source: Any, stride: Any, target: Any, sums: Any) -> Any:
        rows = []
        for row in range(0, 2 * LANES, 2):
            first = b.add(source, b.mul(stride, ir.Constant(I64, row)))
            rows.append(_pairs(b, first, b.add(first, stride)))
        for pairs in rows:
            sums = _both_added(b, sums, pairs)
        _write_transposed(b, rows, target, ir.Constant(I64, LINE))
        return sums

    return emitting(VECTOR, [types.int64, types.int64, types.int64, VECTOR], build)


def _named(tile: Any) -> Any:
    return ir.Constant(BYTE, tile.literal_value)


def _moving(name: str) -> Any:
    @intrinsic(prefer_literal=True)
    def of_tile(context: Any, tile: Any, address: Any, stride: Any) -> Any:
        def build(b: Any, _: Any, at: Any, stride: Any) -> None:
            call(b, name, ir.VoidType(), _named(tile), pointer(b, at), stride)

        return emitting(types.void, [tile, types.int64, types.int64], build)

    return of_tile


tile_load = _moving("llvm.x86.tileloadd64")
"""Load 16 rows of 64 bytes: tile, address, stride."""
tile_store = _moving("llvm.x86.tilestored64")
"""Write 16 rows of 64 bytes: tile, address, stride."""


@intrinsic(prefer_literal=True)
def tile_zero(context: Any, tile: Any) -> Any:
    """Set all numbers to zero."""
    return emitting(types.void, [tile], lambda b, _: call(b, "llvm.x86.tilezero", ir.VoidType(), _named(tile)))


def _adding_product(name: str) -> Any:
    @intrinsic(prefer_literal=True)
    def of_tiles(context: Any, tile: Any, left: Any, right: Any) -> Any:
        def build(b: Any, *_: Any) -> None:
            call(b, name, ir.VoidType(), _named(tile), _named(left), _named(right))

        return emitting(types.void, [tile, left, right], build)

    return of_tiles


tile_add_product = _adding_product("llvm.x86.tdpbf16ps")
"""Add the product of a left and a right factor, in bfloat16, to a sum in float32."""
tile_add_product_int8 = _adding_product("llvm.x86.tdpbssd")
"""The same of int8, to a sum in int32."""


def _on_config(name: str) -> Any:
    @intrinsic
    def of_address(context: Any, address: Any) -> Any:
        return emitting(types.void, [types.int64], lambda b, at: call(b, name, ir.VoidType(), pointer(b, at)))

    return of_address


_load_config, _store_config = _on_config("llvm.x86.ldtilecfg"), _on_config("llvm.x86.sttilecfg")


@njit
def expect_near(address):
    """Have half a tile brought into the first cache: tiles are too large for what the processor fetches by itself.

    To stand before each product: where a core is shared, products that follow each other closely take up to twice as
    long as with eight instructions between them (benchmarks/README.md), whatever these are.
    """
    for line in range(0, HALF, LINE):
        prefetch_near(address + line)


@njit
def zero_sums():
    """Set the first four tiles to zero: the sums of two by two tiles of factors."""
    tile_zero(0)
    tile_zero(1)
    tile_zero(2)
    tile_zero(3)


@njit
def write_sums(target, stride):
    """Write the first four tiles as [32, 32] whose rows lie ``stride`` apart."""
    tile_store(0, target, stride)
    tile_store(1, target + 64, stride)
    tile_store(2, target + 16 * stride, stride)
    tile_store(3, target + 16 * stride + 64, stride)


@njit
def add_products(left, left_apart, right, right_apart, steps, sums, stride, begins):
    """Add the product of two by two rows of ``steps`` tiles each to float32 [32, 32] whose rows lie ``stride`` apart.

    Args:
        left_apart, right_apart: from a row of tiles to the other one.
        begins: what stands at ``sums`` is nothing yet.
    """
    if begins:
        zero_sums()
    else:
        tile_load(0, sums, stride)
        tile_load(1, sums + 64, stride)
        tile_load(2, sums + 16 * stride, stride)
        tile_load(3, sums + 16 * stride + 64, stride)
    for step in range(steps):
        at = TILE * step
        tile_load(4, left + at, 64)
        tile_load(6, right + at, 64)
        tile_load(7, right + right_apart + at, 64)
        tile_load(5, left + left_apart + at, 64)
        expect_near(left + at + 2 * TILE)
        tile_add_product(0, 4, 6)
        expect_near(left + at + 2 * TILE + HALF)
        tile_add_product(1, 4, 7)
        expect_near(left + left_apart + at + 2 * TILE)
        tile_add_product(2, 5, 6)
        expect_near(left + left_apart + at + 2 * TILE + HALF)
        tile_add_product(3, 5, 7)
    write_sums(sums, stride)


CONFIG = 128
"""Bytes that ``configure`` needs."""


def whole_tiles() -> Any:
    """Return the configuration of eight whole tiles, as the processor reads it: 64 bytes."""
    config = np.zeros(64, np.uint8)
    config[0] = 1  # the only palette there is
    config[16:32:2] = 64  # bytes of a row
    config[48:56] = 16  # rows
    return config


@njit
def configure(at: Any) -> None:
    """Make the tiles what stands 64 bytes behind ``at``; keep how they were: oneDNN counts on finding them so."""
    _store_config(at)
    _load_config(at + 64)


@njit
def restore(at: Any) -> None:
    """Make the tiles what they were."""
    _load_config(at)
