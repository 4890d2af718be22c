"""Metrics against ir_measures and hand-computed values."""

from __future__ import annotations

import math
import random
from pathlib import Path

import ir_measures
import pytest

from finerank.core.errors import DataError, UsageError, UserError
from finerank.core.runs import Qrels, Run
from finerank.data.trec import read_qrels, read_run
from finerank.evaluation.metrics import canonical, evaluate_run, mean
from finerank.evaluation.trec_runs import single_precision

NAMES = ["nDCG@10", "nDCG@3", "nDCG", "MAP", "MAP@5", "MRR", "Recall@5", "P@3", "Success@1"]


def random_case(seed: int, ties: bool) -> tuple[Qrels, Run]:
    """Random qrels and run with gaps: unjudged, unretrieved and missing queries, graded and all-zero judgements."""
    draw = random.Random(seed)
    passages = [f"p{number}" for number in range(20)]
    qrels = {
        f"q{number}": {name: draw.choice([0, 0, 1, 2, 3]) for name in draw.sample(passages, draw.randint(1, 8))}
        for number in range(6)
    }
    run = {}
    for query in [*qrels, "unjudged"]:
        found = draw.sample(passages, draw.randint(0, 15))
        run[query] = {name: float(draw.randint(0, 3)) if ties else draw.random() for name in found}
    del run["q0"]
    return qrels, run


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_equals_ir_measures(first: int, ties: bool) -> None:
    for seed in range(first, first + 20):
        assert_equal(*random_case(seed, ties))


def assert_equal(qrels: Qrels, run: Run) -> None:
    ours = evaluate_run(qrels, run, NAMES)
    theirs: dict[tuple[str, str], float] = {}
    measures = {name: ir_measures.parse_measure(name) for name in NAMES}
    for item in ir_measures.iter_calc(measures.values(), qrels, run):
        theirs[str(item.measure), item.query_id] = item.value
    for name, measure in measures.items():
        assert list(ours[name]) == list(qrels)
        for query, value in ours[name].items():
            assert abs(value - theirs.get((str(measure), query), 0.0)) <= 1e-9, (name, query)


def trec_case(seed: int) -> tuple[str, str]:
    """Random TREC files: ties, also of scores that only 64 bits tell apart; judgements said twice; wrong ranks."""
    draw = random.Random(seed)
    qrels, run = random_case(seed, ties=True)
    grades = [f"{query} 0 {name} {grade}\n" for query, found in qrels.items() for name, grade in found.items()]
    grades += draw.sample(grades, len(grades) // 4)
    scored = [
        f"{query} Q0 {name} {draw.randint(0, 99)} {score + draw.choice([0, 1e-9])!r} tag\n"
        for query, found in run.items()
        for name, score in found.items()
    ]
    draw.shuffle(scored)
    return "".join(grades), "".join(scored)


def test_files_are_judged_as_ir_measures_judges_them(tmp_path: Path) -> None:
    for seed in range(40):
        assert_files_equal(seed, tmp_path)


@pytest.mark.slow
def test_ten_thousand_runs_equal_ir_measures(tmp_path: Path) -> None:
    for seed in range(1000, 11_000):
        assert_files_equal(seed, tmp_path)


def assert_files_equal(seed: int, tmp_path: Path) -> None:
    for name, text in zip(("qrels", "run"), trec_case(seed)):
        (tmp_path / name).write_text(text)
    ours = evaluate_run(read_qrels(tmp_path / "qrels"), single_precision(read_run(tmp_path / "run")), NAMES)
    theirs = dict.fromkeys(NAMES, 0)
    measures = {ir_measures.parse_measure(name): name for name in NAMES}
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
    for item in ir_measures.iter_calc(measures, qrels, list(ir_measures.read_trec_run(str(tmp_path / "run")))):
        name = measures[item.measure]
        theirs[name] += 1
        assert abs(ours[name][item.query_id] - item.value) <= 1e-9, (name, item.query_id)
    assert all(theirs.values())


def test_a_passage_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """trec_eval refuses it too; ir_measures keeps the last one in silence."""
    (tmp_path / "run").write_text("q Q0 a 1 2.0 t\nq Q0 a 2 1.0 t\n")
    with pytest.raises(DataError, match="stands twice"):
        read_run(tmp_path / "run")


def test_reciprocal_rank_with_a_cutoff_obeys_the_same_tie_rule() -> None:
    # ir_measures' own RR@k orders equal scores by id ascending, its nDCG@k descending
    qrels, run = {"q": {"b": 1}}, {"q": {"a": 1.0, "b": 1.0}}
    found = evaluate_run(qrels, run, ["MRR@10", "nDCG@10", "MRR", "hit@1"])
    assert [found[name]["q"] for name in found] == [1.0, 1.0, 1.0, 1.0]


def test_scores_that_differ_only_in_double_precision_are_no_ties() -> None:
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    assert evaluate_run(qrels, run, ["nDCG@10"])["nDCG@10"]["q"] == 1.0


def test_hand_computed() -> None:
    qrels = {"q": {"a": 1, "b": 2, "z": 1}}
    run = {"q": {"x": 4.0, "a": 3.0, "y": 2.0, "b": 1.0}}
    found = evaluate_run(qrels, run, ["ndcg@10", "mrr@10", "map", "recall@3", "p@2", "hit@1"])
    ideal = 2.0 + 1.0 / math.log2(3) + 1.0 / 2.0
    assert found["ndcg@10"]["q"] == pytest.approx((1.0 / math.log2(3) + 2.0 / math.log2(5)) / ideal)
    assert found["mrr@10"]["q"] == 0.5
    assert found["map"]["q"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["recall@3"]["q"] == pytest.approx(1 / 3)
    assert (found["p@2"]["q"], found["hit@1"]["q"]) == (0.5, 0.0)


def test_missing_queries_count_zero_and_unjudged_ones_not_at_all() -> None:
    found = evaluate_run({"q": {"a": 1}, "lost": {"a": 1}}, {"q": {"a": 1.0}, "other": {"a": 1.0}}, ["nDCG@10"])
    assert found["nDCG@10"] == {"q": 1.0, "lost": 0.0}
    assert mean(found["nDCG@10"]) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="finite"):
        evaluate_run({"q": {"a": 1}}, {"q": {"a": bad}}, ["nDCG@10"])


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("ndcg@10", "nDCG@10"), ("NDCG@5", "nDCG@5"), ("mrr", "MRR"), ("RR@10", "MRR@10"), ("map", "MAP"),
        ("recall@100", "Recall@100"), ("R@50", "Recall@50"), ("hit@1", "Success@1"), ("accuracy@1", "Success@1"),
        ("hit_rate@3", "Success@3"), ("precision@5", "P@5"), ("ndcg_10", "nDCG@10"), ("Rprec", "Rprec"),
    ],
)  # fmt: skip
def test_spellings(typed: str, name: str) -> None:
    assert canonical(typed) == name


@pytest.mark.parametrize("typed", ["ndgc@10", "recall", "nDCG@0", "", "__import__('os')"])
def test_unknown_metrics_are_usage_errors(typed: str) -> None:
    with pytest.raises(UsageError):
        canonical(typed)
