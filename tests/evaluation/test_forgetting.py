"""Verdicts on a second set: what is said follows from the test."""

from __future__ import annotations

import pytest

from finerank.evaluation.forgetting import verdicts_of
from finerank.evaluation.report import build_report

QUERIES = [f"q{number}" for number in range(40)]


def run(good: int) -> dict[str, dict[str, float]]:
    """Put the relevant passage first for the first ``good`` queries, second for the others."""
    return {query: {"p": 2.0 if number < good else 0.5, "x": 1.0} for number, query in enumerate(QUERIES)}


@pytest.mark.parametrize(("good", "verdict"), [(0, "forgets"), (40, "gains"), (19, "unclear")])
def test_what_is_said(good: int, verdict: str) -> None:
    qrels = {query: {"p": 1} for query in QUERIES}
    report = build_report({"base": run(20), "tuned": run(good)}, qrels, {}, {}, metrics=["MRR"])
    (found,) = verdicts_of(report, "second")
    assert found["verdict"] == verdict
    assert (found["before"], found["after"]) == pytest.approx((0.75, 0.5 + good / 80))
    assert found["difference"]["mean"] == pytest.approx(found["after"] - found["before"])
    said = {"forgets": "tuned forgets: -0.250", "gains": "tuned gains: +0.250", "unclear": "is not shown to forget"}
    assert said[verdict] in found["sentence"]
    assert "on second (0.750 → " in found["sentence"]


def test_bm25_has_nothing_to_forget() -> None:
    qrels = {query: {"p": 1} for query in QUERIES}
    report = build_report({"bm25": run(0), "tuned": run(40)}, qrels, {}, {}, metrics=["MRR"], baseline="tuned")
    assert verdicts_of(report, "second") == []
