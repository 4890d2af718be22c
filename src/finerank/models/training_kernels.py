"""An encoder's block for training in bfloat16, one way and back, by the tiles of a processor with AMX and numba.

Some inputs at a time go through the block, and back, so that each product finds in the processor's second cache what
the one before left; what the way back needs is written as it is computed. Products add up in float32; bias, activation,
dropout, residual and norm are computed before anything is rounded.

What goes into the feed-forward layers and comes out of them is kept as tiles (``layer_kernels.as_tiles``), each chunk's
tokens from a multiple of 32 on: P tokens in all, zeros between.

Names: T tokens of W numbers, inner width F, H heads of D numbers. All is addressed in bytes; ``scratch`` is kept alive
by Python. Behind tokens memory for 31 more may be read (``layer_kernels``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from finerank.models.amx import CONFIG, configure, restore
from finerank.models.attention_back_kernels import attend_back
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
from finerank.models.norm_kernels import statistics, write_norm
from finerank.models.vector_functions import below, gelu, power_of_two
from finerank.models.vectors import (
    LANES,
    filled,
    load,
    load_bfloat16,
    prefetch_write,
    store,
    store_bfloat16,
    store_two,
    total,
)

_BELL = np.float32(-0.5 * math.log2(math.e))
_PEAK = np.float32((2 * math.pi) ** -0.5)


class Kept(NamedTuple):
    """What a block keeps of its way for the way back.

    Attributes:
        states: queries, keys and values, bfloat16 [T, 3, H, D]; ``attended`` [T, H, D]; ``levels`` float32 [H, T].
        sums: what went into the norm behind the attention, float32 [T, W]; ``normed``: what came out, tiles [P, W].
        wide: what went into the activation, tiles [P, F]; ``activated``: what came out.
        last: what went into the last norm, float32 [T, W].
        factors: of dropout behind the attention and behind the feed-forward layers, bfloat16 [T, W]; none: [0].
    """

    states: Any
    attended: Any
    levels: Any
    sums: Any
    normed: Any
    wide: Any
    activated: Any
    last: Any
    factors: Any


class Slopes(NamedTuple):
    """The gradients of what layers give: of queries, keys and values, bfloat16 [T, 3, H, D], of the attention's output
    [T, W], of the feed-forward layers, tiles [P, F] and [P, W]; and ``heads``, that of what is attended, [T, H, D].
    """

    states: Any
    heads: Any
    attended: Any
    wide: Any
    last: Any


def scratch_size(width: int, count: int) -> int:
    """Return the bytes of scratch memory for a block of which ``count`` tokens are computed at a time."""
    return CONFIG + SUMS + 4 * width * (count + ROWS + 1)


@njit
def _write_both(given, target, block, first, rows, sums):
    """Write sums of products plus biases, and GELU of that, both as bfloat16."""
    bias, activated = given
    aim, other, bias = place_of(target, first, block), place_of(activated, first, block), bias + 4 * BLOCK * block
    for row in range(rows):
        prefetch_write(other + row * target.apart)
    for row in range(rows):
        left, right = load(sums + 128 * row) + load(bias), load(sums + 128 * row + 64) + load(bias + 64)
        store_two(aim + row * target.apart, left, right)
        store_two(other + row * target.apart, gelu(left), gelu(right))


@njit
def _write_added(given, target, block, first, rows, sums):
    """Write sums of products plus biases, times dropout's factors (0 for none), plus a residual as float32."""
    bias, factors, residual = given
    bias += 4 * BLOCK * block
    aim, old, kept = place_of(target, first, block), place_of(residual, first, block), place_of(factors, first, block)
    for row in range(rows):
        for half in range(2):
            outputs = load(sums + 128 * row + 64 * half) + load(bias + 64 * half)
            if factors.at:
                outputs = outputs * load_bfloat16(kept + row * factors.apart + 32 * half)
            store(aim + row * target.apart + 64 * half, outputs + load(old + row * residual.apart + 64 * half))


@njit
def _write_plain(given, target, block, first, rows, sums):
    """Write sums of products as bfloat16."""
    aim = place_of(target, first, block)
    for row in range(rows):
        store_two(aim + row * target.apart, load(sums + 128 * row), load(sums + 128 * row + 64))


@njit
def _slope(state):
    """Return the slope of GELU."""
    bell = power_of_two(state * state * filled(_BELL))
    return below(state, bell) + state * bell * filled(_PEAK)


@njit
def _write_sloped(states, target, block, first, rows, sums):
    """Write sums of products times GELU's slope at states, both as bfloat16."""
    aim, at = place_of(target, first, block), place_of(states, first, block)
    for row in range(rows):
        state = at + row * states.apart
        left = load(sums + 128 * row) * _slope(load_bfloat16(state))
        right = load(sums + 128 * row + 64) * _slope(load_bfloat16(state + 32))
        store_two(aim + row * target.apart, left, right)


@njit
def _write_onto(given, target, block, first, rows, sums):
    """Add sums of products to what stands there, float32."""
    aim = place_of(target, first, block)
    for row in range(rows):
        for half in range(2):
            at = aim + row * target.apart + 64 * half
            store(at, load(at) + load(sums + 128 * row + 64 * half))


_apply_both, _apply_added, _apply_plain = applying(_write_both), applying(_write_added), applying(_write_plain)
_apply_sloped, _apply_onto = applying(_write_sloped), applying(_write_onto)


@njit
def _norm(source, count, width, norm, exact, rounded):
    """Write the layer norm of float32 [count, W] as float32 and as bfloat16 ``Rows``."""
    for row in range(count):
        start = 4 * row * width
        write_norm(source + start, width, norm, row_of(rounded, row), rounded.step, exact + start)


@njit
def _norm_back(sums, count, width, norm, factors, above, back, down, gradients, slopes):
    """Go back: the gradient of a norm's result, ``above``, to that of its sums, ``back``, both float32 [count, W], and
    times dropout's factors (0 for none) as bfloat16 ``Rows``, ``down``.

    Args:
        gradients: of the norm's weight and bias, float32 [2, W], are added to; ``slopes``: memory for W float32.
    """
    share = np.float32(1) / np.float32(width)
    weight, of_bias = norm.weight.ctypes.data, gradients + 4 * width
    for row in range(count):
        at, given, start = sums + 4 * row * width, above + 4 * row * width, row * width
        aim = row_of(down, row)
        mean, scale = statistics(at, width, norm.epsilon)
        flat, steep = filled(np.float32(0)), filled(np.float32(0))
        for place in range(0, 4 * width, 64):
            slope, unit = load(given + place), (load(at + place) - mean) * scale
            prefetch_write(back + 4 * start + place)
            store(gradients + place, load(gradients + place) + slope * unit)
            store(of_bias + place, load(of_bias + place) + slope)
            slope = slope * load(weight + place)
            flat = flat + slope
            steep = steep + slope * unit
            store(slopes + place, slope)
        level, tilt = filled(total(flat) * share), filled(total(steep) * share)
        for part in range(width // LANES):
            unit = (load(at + 64 * part) - mean) * scale
            slope = (load(slopes + 64 * part) - level - unit * tilt) * scale
            place = start + LANES * part
            store(back + 4 * place, slope)
            if factors:
                slope = slope * load_bfloat16(factors + 2 * place)
            store_bfloat16(aim + part // 2 * down.step + part % 2 * 32, slope)


@njit
def _rows(array, first, width):
    """Return an array's rows of bfloat16 from ``first`` on; of an empty one, none."""
    return as_usual(array.ctypes.data + 2 * first * width if array.size else 0, 2 * width)


@njit
def _tiles(array, first, width):
    """Return an array's rows of tiles from ``first`` on, a multiple of 32."""
    return as_tiles(array.ctypes.data + 2 * first * width, 2 * width)


@njit
def _clear(rows, count, width):
    """Write zeros behind ``count`` rows of tiles."""
    for row in range(count, -(-count // ROWS) * ROWS):
        for block in range(width // BLOCK):
            store(row_of(rows, row) + block * rows.step, filled(np.float32(0)))


@kept
def block(first, last, chunks, starts, places, exact, rounded, layers, norms, kept, exact_out, rounded_out, scratch):
    """Compute chunks ``first`` to ``last`` of a batch: tokens [T, W] -> [T, W], float32 and the same as bfloat16.

    Args:
        chunks: numbers of the inputs that chunks begin with; ``starts``: where inputs begin; the end behind the last.
        places: where chunks begin among tiles.
        layers: queries, keys and values side by side, the attention's output, up and down (``layer_kernels.Weights``).
        norms: behind the attention and behind the feed-forward layers.
    """
    projections, output, up, down = layers
    _, width = exact.shape
    inner, scale = len(up.bias), np.float64(kept.states.shape[3]) ** -0.5
    base = scratch.ctypes.data
    sums, between = base + CONFIG, base + CONFIG + SUMS
    for chunk in range(first, last):
        own = starts[chunks[chunk] : chunks[chunk + 1] + 1]
        begin, end = own[0], own[-1]
        count = end - begin
        configure(base)
        states, attended = _rows(kept.states, begin, 3 * width), _rows(kept.attended, begin, width)
        apply_biased(
            _rows(rounded, begin, width), count, *of(projections.tiles), sums, states, projections.bias.ctypes.data
        )
        restore(base)
        levels = kept.levels[:, begin:end]
        attend(own - begin, scale, kept.states[begin:end], kept.attended[begin:end], levels, scratch)
        configure(base)
        wide, activated = _tiles(kept.wide, places[chunk], inner), _tiles(kept.activated, places[chunk], inner)
        normed, place = _tiles(kept.normed, places[chunk], width), 4 * begin * width
        _clear(activated, count, inner)
        _clear(normed, count, width)
        added = as_reals(kept.sums.ctypes.data + place, 4 * width)
        residual = as_reals(exact.ctypes.data + place, 4 * width)
        given = output.bias.ctypes.data, _rows(kept.factors[0], begin, width), residual
        _apply_added(attended, count, *of(output.tiles), sums, added, given)
        _norm(added.at, count, width, norms[0], between, normed)
        _apply_both(normed, count, *of(up.tiles), sums, wide, (up.bias.ctypes.data, activated))
        added = as_reals(kept.last.ctypes.data + place, 4 * width)
        given = down.bias.ctypes.data, _rows(kept.factors[1], begin, width), as_reals(between, 4 * width)
        _apply_added(activated, count, *of(down.tiles), sums, added, given)
        _norm(added.at, count, width, norms[1], exact_out.ctypes.data + place, _rows(rounded_out, begin, width))
        restore(base)


@kept
def block_back(first, last, chunks, starts, places, above, weights, norms, kept, slopes, back, of_norms, scratch):
    """Go back through chunks ``first`` to ``last``: the gradient of the block's result -> that of its tokens, ``back``,
    both float32 [T, W].

    Args:
        weights: of the layers, laid out for this way.
        slopes: are written; times the layers' inputs, they are the gradients of these weights.
        of_norms: each chunk's gradients of weight and bias of both norms, float32 [chunks, 2, 2, W].
    """
    projections, output, up, down = weights
    _, width = above.shape
    inner, scale = kept.wide.shape[1], np.float64(kept.states.shape[3]) ** -0.5
    base = scratch.ctypes.data
    sums, line = base + CONFIG, base + CONFIG + SUMS
    of_norms[first:last] = 0
    for chunk in range(first, last):
        own = starts[chunks[chunk] : chunks[chunk + 1] + 1]
        begin, end = own[0], own[-1]
        count, place = end - begin, 4 * begin * width
        wide, of_wide = _tiles(kept.wide, places[chunk], inner), _tiles(slopes.wide, places[chunk], inner)
        of_last, of_output = _tiles(slopes.last, places[chunk], width), _rows(slopes.attended, begin, width)
        _clear(of_wide, count, inner)
        _clear(of_last, count, width)
        given, between = as_reals(above.ctypes.data + place, 4 * width), as_reals(line + 4 * width, 4 * width)
        target = as_reals(back.ctypes.data + place, 4 * width)
        configure(base)
        added, factors = kept.last.ctypes.data + place, _rows(kept.factors[1], begin, width).at
        of_norm = of_norms[chunk, 1].ctypes.data
        _norm_back(added, count, width, norms[1], factors, given.at, between.at, of_last, of_norm, line)
        _apply_sloped(of_last, count, *of(down), sums, of_wide, wide)
        _apply_onto(of_wide, count, *of(up), sums, between, 0)
        added, factors = kept.sums.ctypes.data + place, _rows(kept.factors[0], begin, width).at
        of_norm = of_norms[chunk, 0].ctypes.data
        _norm_back(added, count, width, norms[0], factors, between.at, target.at, of_output, of_norm, line)
        _apply_plain(of_output, count, *of(output), sums, _rows(slopes.heads, begin, width), 0)
        restore(base)
        attend_back(
            own - begin, scale, kept.states[begin:end], kept.attended[begin:end], slopes.heads[begin:end],
            slopes.states[begin:end], kept.levels[:, begin:end], scratch,
        )  # fmt: skip
        configure(base)
        _apply_onto(_rows(slopes.states, begin, 3 * width), count, *of(projections), sums, target, 0)
        restore(base)
