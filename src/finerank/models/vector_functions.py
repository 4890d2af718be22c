"""Functions of vectors for numba (:mod:`.vectors`): powers, logarithms, inverses, and what GELU is made of.

They are as exact as bfloat16 wants them, or int8, with a margin: each says how exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from finerank.models.vectors import FLAGS, I32, LANES, REALS, VECTOR, call, emitting, larger_of, single, splat

_POWERS_OF_TWO = (0.99992783, 0.6957771, 0.22623319, 0.07790716)
_LOGARITHMS = (-2.7941537, 5.0697563, -3.5202188, 1.6101775, -0.40947559, 0.043928628)
_SHARE_BELOW = (0.39787975, -0.064568728, 8.7706046e-3, -8.1368082e-4, 4.7923786e-5, -1.5971228e-6, 2.2754493e-8)
_REACH = 4.0
_ERROR_FUNCTION = (0.0, 0.127414796, -0.142248368, 0.7107068705, -0.7265760135, 0.5307027145)
"""Half of Abramowitz and Stegun's coefficients, 7.1.26."""


def _polynomial(b: Any, coefficients: Sequence[float], x: Any) -> Any:
    """Return a polynomial's values; the constant comes first."""
    value = splat(REALS, single(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        value = b.fadd(b.fmul(value, x, flags=FLAGS), splat(REALS, single(coefficient)), flags=FLAGS)
    return value


@intrinsic
def gelu(context: Any, vector: Any) -> Any:
    """Return each number times the share of a normal distribution that lies below it; to 2e-4.

    That share is 0.5 and an odd polynomial of the 13th degree (least squares, weighted towards the least largest error
    of the result) of what is held between -4 and 4: int8, which it is made for, is a hundred times as coarse.
    """

    def build(b: Any, x: Any) -> Any:
        near = larger_of(b, splat(REALS, -_REACH), x)
        near = b.select(b.fcmp_ordered("<", splat(REALS, _REACH), near), splat(REALS, _REACH), near)
        odd = b.fmul(_polynomial(b, _SHARE_BELOW, b.fmul(near, near)), near, flags=FLAGS)
        return b.fmul(b.fadd(odd, splat(REALS, 0.5), flags=FLAGS), x)

    return emitting(VECTOR, [VECTOR], build)


_ALL = ir.Constant(ir.IntType(LANES), 2**LANES - 1)
"""All lanes."""
_AS_SET = ir.Constant(I32, 4)
"""Rounded as the thread has it, to the nearest."""


def _of_each(b: Any, name: str, *values: Any) -> Any:
    """Call one of LLVM's functions of AVX-512 that are written for some of the lanes, for all."""
    return call(b, f"llvm.x86.avx512.{name}.ps.512", REALS, *values, splat(REALS, 0.0), _ALL)


def _of_each_rounded(b: Any, name: str, *values: Any) -> Any:
    """The same of those that are told how to round."""
    return call(b, f"llvm.x86.avx512.mask.{name}.ps.512", REALS, *values, splat(REALS, 0.0), _ALL, _AS_SET)


def _inverse(b: Any, x: Any) -> Any:
    return _of_each(b, "rcp14", x)


@intrinsic
def inverse(context: Any, vector: Any) -> Any:
    """Return 1 / x, to 6e-5 of itself."""
    return emitting(VECTOR, [VECTOR], _inverse)


@intrinsic
def below(context: Any, vector: Any, bell: Any) -> Any:
    """Return the share of a normal distribution that lies below each number x, given e to the power of -x² / 2.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: to 1e-4, as ``bell`` and divisions are.
    """

    def build(b: Any, x: Any, bell: Any) -> Any:
        far = b.fmul(call(b, "llvm.fabs.v16f32", REALS, x), splat(REALS, single(0.3275911 * 0.5**0.5)))
        near = _inverse(b, b.fadd(far, splat(REALS, 1.0)))
        tail = b.fmul(_polynomial(b, _ERROR_FUNCTION, near), bell)
        return b.select(b.fcmp_ordered("<", x, splat(REALS, 0.0)), tail, b.fsub(splat(REALS, 1.0), tail))

    return emitting(VECTOR, [VECTOR, VECTOR], build)


@intrinsic
def power_of_two(context: Any, vector: Any) -> Any:
    """Return 2 to the power of each number, to 1e-4 of itself.

    Whole places go into the exponent; the rest, in [0, 1), through a polynomial of the third degree (least squares of
    the relative error at 64 Chebyshev nodes): bfloat16, which it is made for, is forty times as coarse.
    """

    def build(b: Any, x: Any) -> Any:
        rest = _of_each_rounded(b, "reduce", x, ir.Constant(I32, 9))  # less the whole number below, and quietly
        return _of_each_rounded(b, "scalef", _polynomial(b, _POWERS_OF_TWO, rest), x)

    return emitting(VECTOR, [VECTOR], build)


@intrinsic
def logarithm_of_two(context: Any, vector: Any) -> Any:
    """Return the logarithm to the base 2 of positive numbers, to 2e-5.

    Whole places are the exponent; the rest, of [1, 2), a polynomial of the fifth degree, fitted as powers' is.
    """

    def build(b: Any, x: Any) -> Any:
        rest = _of_each_rounded(b, "getmant", x, ir.Constant(I32, 0))  # in [1, 2), with x's sign
        whole = _of_each_rounded(b, "getexp", x)
        return b.fadd(whole, _polynomial(b, _LOGARITHMS, rest))

    return emitting(VECTOR, [VECTOR], build)
