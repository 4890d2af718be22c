"""Slices: every query in one part of its kind, and differences that are those of the part."""

from __future__ import annotations

import random

import pytest

from finerank.evaluation.slices import FEWEST, parts_of, sliced


def test_parts_hold_each_query_once() -> None:
    draw = random.Random(1)
    queries = {f"q{n}": " ".join(["word"] * draw.randint(1, 12)) for n in range(90)}
    queries |= {f"z{n}": "检索" * draw.randint(1, 5) for n in range(30)}
    types = {query: "symptoms" if n % 2 else "treatment" for n, query in enumerate(queries)} | {"other": "x"}
    parts = parts_of(queries, types)
    assert set(parts) == {"length", "script", "type"}
    for named in parts.values():
        ids = [query for part in named.values() for query in part]
        assert sorted(ids) == sorted(queries)
    assert list(parts["script"]) == ["Latin", "Chinese"]


def test_small_parts_and_single_ones_are_left_out() -> None:
    queries = {f"q{n}": "one word" for n in range(40)} | {"z": "检索"}
    assert parts_of(queries, {}) == {}
    assert FEWEST > 1


def test_differences_are_those_of_the_part() -> None:
    ids = {"a": [f"a{n}" for n in range(20)], "b": [f"b{n}" for n in range(20)]}
    base = {query: 0.5 for part in ids.values() for query in part}
    better = base | {query: 0.9 for query in ids["a"]}
    first, second = sliced({"type": ids}, better, base)
    assert (first.name, first.queries, first.difference.mean) == ("a", 20, pytest.approx(0.4))
    assert (second.value.mean, second.difference.mean, second.p) == (0.5, 0.0, 1.0)
    assert first.p < 0.01
