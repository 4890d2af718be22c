"""An encoder's block in bfloat16, for inference, by the tiles of a processor with AMX, compiled by numba.

Some inputs at a time go through the block, so that attention finds its queries, keys and values in the processor's
second cache, and each layer what the one before left. Products add up in float32; bias, activation, residual and norm
are computed before anything is rounded.

Names: T tokens of W numbers, inner width F. All is addressed in bytes; ``scratch`` is kept alive by Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from finerank.models.amx import CONFIG, configure, restore
from finerank.models.attention_kernels import attend
from finerank.models.compiled import kept
from finerank.models.layer_kernels import (
    BLOCK,
    ROWS,
    SUMS,
    apply_biased,
    applying,
    as_reals,
    as_tiles,
    as_usual,
    of,
    place_of,
    row_of,
)
from finerank.models.norm_kernels import write_norm
from finerank.models.vector_functions import gelu
from finerank.models.vectors import load, load_bfloat16, store, store_two


def scratch_size(width: int, inner: int, count: int) -> int:
    """Return the bytes of scratch memory for a block of which ``count`` tokens are computed at a time."""
    return CONFIG + SUMS + (count + ROWS) * (4 * width + 2 * width + 2 * inner)


@njit
def _write_gelu(given, target, block, first, rows, sums):
    """Write GELU of sums of products plus biases as bfloat16."""
    aim, bias = place_of(target, first, block), given + 4 * BLOCK * block
    for row in range(rows):
        left, right = load(sums + 128 * row) + load(bias), load(sums + 128 * row + 64) + load(bias + 64)
        store_two(aim + row * target.apart, gelu(left), gelu(right))


@njit
def _write_added(given, target, block, first, rows, sums):
    """Write sums of products plus biases and a residual in bfloat16 as float32."""
    bias, residual = given
    aim, at, bias = place_of(target, first, block), place_of(residual, first, block), bias + 4 * BLOCK * block
    for row in range(rows):
        for half in range(2):
            outputs = load(sums + 128 * row + 64 * half) + load(bias + 64 * half)
            added = load_bfloat16(at + row * residual.apart + 32 * half)
            store(aim + row * target.apart + 64 * half, outputs + added)


_apply_gelu, _apply_added = applying(_write_gelu), applying(_write_added)


@njit
def _norm(source, count, width, norm, target):
    """Write the layer norm of float32 [count, W] as ``_Rows``."""
    for row in range(count):
        write_norm(source + row * width * 4, width, norm, row_of(target, row), target.step, 0)


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
    reals = as_reals(sums + SUMS, 4 * width)
    middle = as_tiles(reals.at + most * reals.size, 2 * width)
    wide = as_tiles(middle.at + most * middle.size, 2 * inner)
    configure(scratch)
    given = output.bias.ctypes.data, as_usual(tokens, 2 * width)
    _apply_added(as_usual(attended, 2 * width), count, *of(output.tiles), sums, reals, given)
    _norm(reals.at, count, width, norms[0], middle)
    _apply_gelu(middle, count, *of(up.tiles), sums, wide, up.bias.ctypes.data)
    _apply_added(wide, count, *of(down.tiles), sums, reals, (down.bias.ctypes.data, middle))
    _norm(reals.at, count, width, norms[1], as_usual(out, 2 * width))
    restore(scratch)


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
    _, width = tokens.shape
    base = scratch.ctypes.data
    for chunk in range(first, last):
        begin, end = chunks[chunk], chunks[chunk + 1]
        own = starts[begin : end + 1] - starts[begin]
        count, at = own[-1], starts[begin] * width * 2
        source, aim = tokens.ctypes.data + at, out.ctypes.data + at
        configure(base)
        target = as_usual(states.ctypes.data, 6 * width)
        bias = projections.bias.ctypes.data
        apply_biased(as_usual(source, 2 * width), count, *of(projections.tiles), base + CONFIG, target, bias)
        restore(base)
        attend(own, np.float64(by_head.shape[3]) ** -0.5, by_head, attended_by_head, levels, scratch)
        _finish(count, attended.ctypes.data, source, layers, norms, aim, base)
