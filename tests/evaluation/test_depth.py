"""The depth curve by hand, and what must hold of every one."""

from __future__ import annotations

import random

import pytest

from finerank.core.runs import ranked
from finerank.evaluation.depth import depth_curve, depths_up_to, spliced


def test_by_hand() -> None:
    first = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    scores = {"q": {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.3}}
    curve = depth_curve({"q": {"c": 1, "d": 1}}, first, scores, [1, 2, 3, 4], "MRR")
    assert [point.value.mean for point in curve] == pytest.approx([1 / 3, 1 / 3, 1.0, 1.0])
    assert [point.ceiling for point in curve] == pytest.approx([1 / 3, 1 / 3, 1.0, 1.0])
    assert [point.recall for point in curve] == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert [point.pairs for point in curve] == [1, 2, 3, 4]


def test_what_holds_of_every_curve() -> None:
    draw = random.Random(5)
    names = [f"p{place}" for place in range(40)]
    first = {f"q{number}": {name: draw.gauss(0, 1) for name in names} for number in range(30)}
    scores = {query: {name: draw.gauss(0, 1) for name in names} for query in first}
    qrels = {query: {draw.choice(names): draw.randint(1, 3) for _ in range(3)} for query in [*first, "missed"]}
    curve = depth_curve(qrels, first, scores, depths_up_to(40), "nDCG@10")
    assert [point.depth for point in curve] == [10, 20, 40]
    assert all(point.value.mean <= point.ceiling + 1e-12 for point in curve)
    assert [point.ceiling for point in curve] == sorted(point.ceiling for point in curve)
    assert [point.recall for point in curve] == sorted(point.recall for point in curve)
    assert curve[-1].recall == pytest.approx(30 / 31)  # all but the query that the first stage misses


def test_nothing_reranked_is_the_first_stage_and_everything_is_the_reranker() -> None:
    first, scores = {"a": 2.0, "b": 2.0, "c": 1.0}, {"a": 0.0, "b": 1.0, "c": 2.0}
    order = [candidate.passage_id for candidate in ranked(first)]
    assert list(spliced(first, scores, 0)) == order
    assert list(spliced(first, scores, 3)) == ["c", "b", "a"]
