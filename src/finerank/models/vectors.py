"""Vectors for numba on a processor with AVX-512: what kernels compute with beside products (:mod:`.amx`).

A vector is 16 numbers in float32, one register: loaded from an address, computed with ``+ - *`` and the functions
below, and stored. Addresses and strides are in bytes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

# Whole AVX-512 registers: by itself LLVM takes half of them on most processors.
numba.config.CPU_NAME = binding.get_host_cpu_name()
numba.config.CPU_FEATURES = binding.get_host_cpu_features().flatten() + ",-prefer-256-bit"

LANES = 16
FARTHEST = -1e30
"""A score, or a power of two, whose weight is nothing."""

BYTE, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
HALVES, WORDS, REALS = (ir.VectorType(kind, LANES) for kind in (I16, I32, F32))
FLAGS = ("contract", "reassoc", "nsz", "arcp")


class Brain(ir.types.Type):
    """bfloat16: LLVM has it, llvmlite does not."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Brain)

    def __hash__(self) -> int:
        return hash(Brain)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__("float32x16")


VECTOR = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, REALS)


def emitting(result: Any, arguments: Sequence[Any], build: Callable[..., Any]) -> Any:
    """Return what ``intrinsic`` wants: types, and a function that has ``build`` write code for (builder, *values)."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = build(builder, *values)
        return context.get_dummy_value() if value is None else value

    return result(*arguments), generate


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call one of LLVM's intrinsics."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [value.type for value in values]), name)
    return builder.call(function, values)


def pointer(builder: Any, address: Any, kind: Any = BYTE) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def splat(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * LANES)


def spread(builder: Any, kind: Any, value: Any) -> Any:
    """Return a vector of a value."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, one, splat(WORDS, 0))


def single(value: float) -> float:
    return float(np.float32(value))


@intrinsic
def load(context: Any, address: Any) -> Any:
    """Return 16 float32."""
    return emitting(VECTOR, [types.int64], lambda b, at: b.load(pointer(b, at, REALS), align=4))


def _prefetching(near: int, writes: int = 0) -> Any:
    @intrinsic
    def of_address(context: Any, address: Any) -> Any:
        def build(b: Any, at: Any) -> None:
            hints = [ir.Constant(I32, hint) for hint in (writes, near, 1)]  # to read; how near; data
            call(b, "llvm.prefetch.p0i8", ir.VoidType(), pointer(b, at), *hints)

        return emitting(types.void, [types.int64], build)

    return of_address


prefetch = _prefetching(2)
"""Have the line at an address, which need not be valid, brought into the second cache."""
prefetch_near = _prefetching(3)
"""The same, into the first cache."""
prefetch_write = _prefetching(3, 1)
"""The same, to be written: a store waits for a line that is not there, and all stores behind it wait, too."""


@intrinsic
def store(context: Any, address: Any, vector: Any) -> Any:
    """Write 16 float32."""
    return emitting(types.void, [types.int64, VECTOR], lambda b, at, v: b.store(v, pointer(b, at, REALS), align=4))


@intrinsic
def load_bfloat16(context: Any, address: Any) -> Any:
    """Return 16 bfloat16 as float32."""

    def build(b: Any, at: Any) -> Any:
        halves = b.zext(b.load(pointer(b, at, HALVES), align=2), WORDS)
        return b.bitcast(b.shl(halves, splat(WORDS, 16)), REALS)

    return emitting(VECTOR, [types.int64], build)


@intrinsic
def store_bfloat16(context: Any, address: Any, vector: Any) -> Any:
    """Write 16 numbers, rounded to bfloat16."""
    brains = ir.VectorType(Brain(), LANES)

    def build(b: Any, at: Any, v: Any) -> None:
        b.store(b.fptrunc(v, brains), pointer(b, at, brains), align=2)

    return emitting(types.void, [types.int64, VECTOR], build)


def _rounded(b: Any, first: Any, second: Any) -> Any:
    """Return two vectors as 32 bfloat16: one conversion of both costs little more than one of each."""
    brains = call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", ir.VectorType(Brain(), 2 * LANES), second, first)
    return b.bitcast(brains, ir.VectorType(I16, 2 * LANES))


@intrinsic
def store_two(context: Any, address: Any, first: Any, second: Any) -> Any:
    """Write the numbers of two vectors, rounded to bfloat16, one after the other."""

    def build(b: Any, at: Any, first: Any, second: Any) -> None:
        numbers = _rounded(b, first, second)
        b.store(numbers, pointer(b, at, numbers.type), align=2)

    return emitting(types.void, [types.int64, VECTOR, VECTOR], build)


@intrinsic
def store_pairs(context: Any, address: Any, first: Any, second: Any) -> Any:
    """Write 16 numbers of each of two vectors, rounded to bfloat16, as 16 pairs."""
    places = [place // 2 + (place % 2) * LANES for place in range(2 * LANES)]

    def build(b: Any, at: Any, first: Any, second: Any) -> None:
        numbers = _rounded(b, first, second)
        pairs = b.shuffle_vector(numbers, numbers, ir.Constant(ir.VectorType(I32, 2 * LANES), places))
        b.store(pairs, pointer(b, at, pairs.type), align=4)

    return emitting(types.void, [types.int64, VECTOR, VECTOR], build)


@intrinsic
def filled(context: Any, value: Any) -> Any:
    """Return a vector of one number."""
    return emitting(VECTOR, [types.float32], lambda b, value: spread(b, REALS, value))


@intrinsic
def load_filled(context: Any, address: Any) -> Any:
    """Return a vector of one float32."""
    return emitting(VECTOR, [types.int64], lambda b, at: spread(b, REALS, b.load(pointer(b, at, F32), align=4)))


@intrinsic
def load_one(context: Any, address: Any) -> Any:
    """Return one float32."""
    return emitting(types.float32, [types.int64], lambda b, at: b.load(pointer(b, at, F32), align=4))


@intrinsic
def load_integers(context: Any, address: Any) -> Any:
    """Return 16 int32 as float32."""
    return emitting(VECTOR, [types.int64], lambda b, at: b.sitofp(b.load(pointer(b, at, WORDS), align=4), REALS))


@intrinsic
def store_bytes(context: Any, address: Any, vector: Any) -> Any:
    """Write 16 numbers, none beyond 127 either way, rounded to int8."""
    kind = ir.VectorType(BYTE, LANES)

    def build(b: Any, at: Any, v: Any) -> None:
        mask, as_set = ir.Constant(ir.IntType(LANES), 2**LANES - 1), ir.Constant(I32, 4)
        whole = call(b, "llvm.x86.avx512.mask.cvtps2dq.512", WORDS, v, splat(WORDS, 0), mask, as_set)
        b.store(b.trunc(whole, kind), pointer(b, at, kind), align=1)

    return emitting(types.void, [types.int64, VECTOR], build)


@intrinsic
def store_one(context: Any, address: Any, value: Any) -> Any:
    """Write one float32."""
    return emitting(types.void, [types.int64, types.float32], lambda b, at, x: b.store(x, pointer(b, at, F32), align=4))


def _arithmetic(name: str) -> Any:
    @intrinsic
    def of_two(context: Any, left: Any, right: Any) -> Any:
        return emitting(VECTOR, [VECTOR, VECTOR], lambda b, x, y: getattr(b, name)(x, y, flags=FLAGS))

    return of_two


def _overload(sign: Any, operation: Any) -> None:
    @overload(sign)
    def chosen(left, right):  # no annotations: numba compares its signature with that of what it returns
        def computed(left, right):
            return operation(left, right)

        computed.__qualname__ = f"{sign.__name__}_of_vectors"  # none of the others' name (``layer_kernels.applying``)
        return computed if left is right is VECTOR else None


_overload(operator.add, _arithmetic("fadd"))
_overload(operator.sub, _arithmetic("fsub"))
_overload(operator.mul, _arithmetic("fmul"))


def larger_of(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", y, x), x, y)  # as the processor has it: y where either is not a number


@intrinsic
def larger(context: Any, left: Any, right: Any) -> Any:
    """Return the larger of each two numbers; the right one where either is NaN."""
    return emitting(VECTOR, [VECTOR, VECTOR], larger_of)


def _folded(b: Any, vector: Any, combine: Callable[..., Any]) -> Any:
    """Combine the numbers of a vector, half with half."""
    half = LANES // 2
    while half:
        places = ir.Constant(WORDS, [(lane + half) % LANES for lane in range(LANES)])
        vector = combine(b, vector, b.shuffle_vector(vector, vector, places))
        half //= 2
    return b.extract_element(vector, ir.Constant(I32, 0))


@intrinsic
def largest(context: Any, vector: Any) -> Any:
    """Return the largest number."""
    return emitting(types.float32, [VECTOR], lambda b, v: _folded(b, v, larger_of))


@intrinsic
def total(context: Any, vector: Any) -> Any:
    """Return the sum of the numbers."""
    return emitting(types.float32, [VECTOR], lambda b, v: _folded(b, v, lambda b, *two: b.fadd(*two)))


@intrinsic
def totals(context: Any, address: Any) -> Any:
    """Return the sums of 16 vectors that lie one after the other: the first one's in the first place, and so on."""

    def build(b: Any, at: Any) -> Any:
        rows = [b.load(pointer(b, b.add(at, ir.Constant(I64, 64 * row)), REALS), align=4) for row in range(LANES)]
        size = 1  # of two rows' numbers, those whose place has this bit are to come from the second one
        while size < LANES:
            own = ir.Constant(WORDS, [lane + LANES * bool(lane & size) for lane in range(LANES)])
            other = ir.Constant(WORDS, [(lane ^ size) + LANES * bool(lane & size) for lane in range(LANES)])
            pairs = list(zip(rows[::2], rows[1::2]))
            rows = [b.fadd(b.shuffle_vector(*pair, own), b.shuffle_vector(*pair, other)) for pair in pairs]
            size *= 2
        return rows[0]

    return emitting(VECTOR, [types.int64], build)


@intrinsic
def larger_magnitudes(context: Any, address: Any, before: Any) -> Any:
    """Return the magnitudes of 32 bfloat16, each the larger one of it and what this returned before, or zeros.

    They are compared as whole numbers, as which what is infinite is larger than any number, and NaN larger still.
    """
    both = ir.VectorType(I16, 2 * LANES)

    def build(b: Any, at: Any, before: Any) -> Any:
        found = b.and_(b.load(pointer(b, at, both), align=2), ir.Constant(both, [0x7FFF] * 2 * LANES))
        known = b.bitcast(before, both)
        return b.bitcast(b.select(b.icmp_unsigned(">", found, known), found, known), REALS)

    return emitting(VECTOR, [types.int64, VECTOR], build)


@intrinsic
def largest_magnitude(context: Any, vector: Any) -> Any:
    """Return the largest one of what ``larger_magnitudes`` returned."""

    def build(b: Any, v: Any) -> Any:
        largest = call(b, "llvm.vector.reduce.umax.v32i16", I16, b.bitcast(v, ir.VectorType(I16, 2 * LANES)))
        return b.bitcast(b.shl(b.zext(largest, I32), ir.Constant(I32, 16)), F32)

    return emitting(types.float32, [VECTOR], build)


@intrinsic
def shade(context: Any, count: Any) -> Any:
    """Return 0 in the first ``count`` places of a vector and ``FARTHEST`` in the others."""

    def build(b: Any, count: Any) -> Any:
        places = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        many = spread(b, places.type, count)
        return b.select(b.icmp_signed("<", places, many), splat(REALS, 0.0), splat(REALS, single(FARTHEST)))

    return emitting(VECTOR, [types.int64], build)
