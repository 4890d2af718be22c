"""An encoder's block in int8 by the tiles of a processor with AMX, compiled by numba.

Weights are int8 with a scale of each output, laid out as tiles once; activations get a scale of each token as they
come, so that nothing is calibrated. Some inputs at a time go through the block, so that attention finds its queries,
keys and values in the processor's second cache; and 32 tokens at a time through the layers behind it: products, bias,
activation, residual and norm. Sums of products are int32, all else is float32, and bfloat16 where it is kept.

Names: T tokens of W numbers, inner width F. All is addressed in bytes; ``scratch`` is kept alive by Python.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import (
    CONFIG,
    HALF,
    TILE,
    configure,
    expect_near,
    restore,
    tile_add_product_int8,
    tile_load,
    write_sums,
    zero_sums,
)
from finerank.models.attention_kernels import attend
from finerank.models.compiled import kept
from finerank.models.layer_kernels import BLOCK, ROWS
from finerank.models.norm_kernels import write_norm
from finerank.models.vector_functions import gelu
from finerank.models.vectors import (
    LANES,
    filled,
    larger_magnitudes,
    largest_magnitude,
    load,
    load_bfloat16,
    load_filled,
    load_integers,
    load_one,
    prefetch_write,
    store,
    store_bytes,
    store_one,
    store_two,
)

SMALLEST = np.float32(1e-30)
"""What the largest number of a row is taken for where all are nearer to zero."""


class Weights(NamedTuple):
    """A layer: uint8 [N / 32, K / 64, 2, 16, 16, 4], a scale of each output float32 [N], its bias [N]."""

    tiles: Any
    scale: Any
    bias: Any


def scratch_size(width: int, inner: int, count: int) -> int:
    """Return the bytes of scratch memory for a block, however many tokens are computed at a time."""
    return CONFIG + 4 * ROWS + 4 * ROWS * BLOCK + 3 * ROWS * inner + 6 * ROWS * width


@njit
def _products(left, inner, right, target):
    """Write int8 [32, K] times a block of a layer [K, 32] as int32 [32, 32]."""
    zero_sums()
    for step in range(inner // 64):
        tile_load(4, left + 64 * step, inner)
        tile_load(5, left + 16 * inner + 64 * step, inner)
        tile_load(6, right + 2 * TILE * step, 64)
        tile_load(7, right + 2 * TILE * step + TILE, 64)
        following = right + 2 * TILE * (step + 1)
        expect_near(following)
        tile_add_product_int8(0, 4, 6)
        expect_near(following + HALF)
        tile_add_product_int8(1, 4, 7)
        expect_near(following + TILE)
        tile_add_product_int8(2, 5, 6)
        expect_near(following + TILE + HALF)
        tile_add_product_int8(3, 5, 7)
    write_sums(target, 4 * BLOCK)


@njit
def _quantise(source, count, width, target, scales):
    """Write bfloat16 [count, K] as int8, and each row's scale; what is no number spoils its row's."""
    for row in range(count):
        at = source + row * width * 2
        best = filled(np.float32(0))
        for part in range(width // 32):
            best = larger_magnitudes(at + 64 * part, best)
        most = largest_magnitude(best)
        store_one(scales + 4 * row, (SMALLEST if most < SMALLEST else most) / np.float32(127))
    for row in range(count):
        inverse = filled(np.float32(1) / load_one(scales + 4 * row))
        for part in range(width // LANES):
            numbers = load_bfloat16(source + row * width * 2 + 32 * part) * inverse
            store_bytes(target + row * width + LANES * part, numbers)


@njit
def _of_block(weights, block):
    """Return scales and biases of a block's outputs, two vectors each."""
    scale, bias = weights.scale.ctypes.data + 4 * BLOCK * block, weights.bias.ctypes.data + 4 * BLOCK * block
    return load(scale), load(scale + 64), load(bias), load(bias + 64)


@njit
def _outputs(sums, scales, row, of_block):
    """Return a row's outputs of a block, two vectors."""
    left_scale, right_scale, left_bias, right_bias = of_block
    own, at = load_filled(scales + 4 * row), sums + 4 * BLOCK * row
    return load_integers(at) * own * left_scale + left_bias, load_integers(at + 64) * own * right_scale + right_bias


@njit
def _applied(quantised, scales, count, weights, inner, activated, sums, target):
    """Write a layer's outputs, or GELU of them, as bfloat16 [count, N]."""
    columns = len(weights.bias)
    for block in range(columns // BLOCK):
        for row in range(count):
            prefetch_write(target + (row * columns + BLOCK * block) * 2)
        _products(quantised, inner, weights.tiles.ctypes.data + block * BLOCK * inner, sums)
        of_block = _of_block(weights, block)
        for row in range(count):
            left, right = _outputs(sums, scales, row, of_block)
            aim = target + (row * columns + BLOCK * block) * 2
            if activated:
                left, right = gelu(left), gelu(right)
            store_two(aim, left, right)


@njit
def _added(quantised, scales, count, weights, inner, residual, sums, target):
    """Write a layer's outputs plus a residual in bfloat16 as float32 [count, W]."""
    columns = len(weights.bias)
    for block in range(columns // BLOCK):
        _products(quantised, inner, weights.tiles.ctypes.data + block * BLOCK * inner, sums)
        of_block = _of_block(weights, block)
        for row in range(count):
            left, right = _outputs(sums, scales, row, of_block)
            place = row * columns + BLOCK * block
            store(target + 4 * place, left + load_bfloat16(residual + 2 * place))
            store(target + 4 * place + 64, right + load_bfloat16(residual + 2 * place + 32))


@njit
def _normed(source, count, width, norm, target):
    """Write the layer norm of float32 [count, W] as bfloat16."""
    for row in range(count):
        write_norm(source + row * width * 4, width, norm, target + row * width * 2, 2 * BLOCK, 0)


@njit
def _project(first, last, tokens, weights, out, scratch):
    """Apply a layer to tokens ``first`` to ``last`` of bfloat16 [T, W] -> bfloat16 [last - first, N]."""
    _, width = tokens.shape
    columns = len(weights.bias)
    scales = scratch.ctypes.data + CONFIG
    sums = scales + 4 * ROWS
    quantised = sums + 4 * ROWS * BLOCK
    configure(scratch.ctypes.data)
    for start in range(first, last, ROWS):
        count = min(ROWS, last - start)
        _quantise(tokens.ctypes.data + start * width * 2, count, width, quantised, scales)
        target = out.ctypes.data + (start - first) * columns * 2
        _applied(quantised, scales, count, weights, width, False, sums, target)
    restore(scratch.ctypes.data)


@njit
def _finish(first, last, attended, tokens, layers, norms, out, scratch):
    """Compute what stands behind the attention for tokens ``first`` to ``last`` of bfloat16 [T, W] -> [T, W].

    Args:
        attended: the heads' outputs [last - first, W]; ``tokens`` went into the block.
        layers: the attention's output, the feed-forward layers up and down; ``norms`` behind the first and the last.
    """
    _, width = tokens.shape
    output, up, down = layers
    inner = len(up.bias)
    scales = scratch.ctypes.data + CONFIG
    sums = scales + 4 * ROWS
    quantised = sums + 4 * ROWS * BLOCK
    wide = quantised + ROWS * inner
    reals = wide + 2 * ROWS * inner
    middle = reals + 4 * ROWS * width
    configure(scratch.ctypes.data)
    for start in range(first, last, ROWS):
        count, at = min(ROWS, last - start), start * width * 2
        _quantise(attended.ctypes.data + (start - first) * width * 2, count, width, quantised, scales)
        _added(quantised, scales, count, output, width, tokens.ctypes.data + at, sums, reals)
        _normed(reals, count, width, norms[0], middle)
        _quantise(middle, count, width, quantised, scales)
        _applied(quantised, scales, count, up, width, True, sums, wide)
        _quantise(wide, count, inner, quantised, scales)
        _added(quantised, scales, count, down, inner, middle, sums, reals)
        _normed(reals, count, width, norms[1], out.ctypes.data + at)
    restore(scratch.ctypes.data)


@kept
def block(first, last, chunks, starts, tokens, projections, layers, norms, rooms, out, scratch):
    """Compute chunks ``first`` to ``last`` of a batch: bfloat16 tokens [T, W] -> [T, W].

    Args:
        chunks: numbers of the inputs that chunks begin with; ``starts``: where inputs begin; the end behind the last.
        rooms: for a chunk's queries, keys and values [C, 3 W], the same as [C, 3, H, D], what is attended [C, W], the
            same as [C, H, D], and none of attention's levels, float32 [H, 0]. Each thread's own, so that they stay in
            its second cache.
    """
    states, by_head, attended, attended_by_head, levels = rooms
    scale = np.float64(by_head.shape[3]) ** -0.5
    for chunk in range(first, last):
        begin, end = chunks[chunk], chunks[chunk + 1]
        _project(starts[begin], starts[end], tokens, projections, states, scratch)
        attend(starts[begin : end + 1] - starts[begin], scale, by_head, attended_by_head, levels, scratch)
        _finish(starts[begin], starts[end], attended, tokens, layers, norms, out, scratch)
