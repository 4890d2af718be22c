"""Fusion by hand, and the choice of the weight."""

from __future__ import annotations

import pytest

from finerank.core.errors import UserError
from finerank.evaluation.fusion import choose_weight, fuse_runs, fuse_scores, zscores


def test_zscore_fusion_by_hand() -> None:
    # z of (1, 3) is (-1, 1); z of (4, 2) is (1, -1)
    assert fuse_scores([1.0, 3.0], [4.0, 2.0], "zscore", 0.5) == pytest.approx([-0.5, 0.5])
    assert fuse_scores([1.0, 3.0], [4.0, 2.0], "zscore", 2.0) == pytest.approx([1.0, -1.0])
    assert fuse_scores([1.0, 3.0], [4.0, 2.0], "none") == [4.0, 2.0]


def test_scale_and_shift_of_a_side_change_nothing() -> None:
    plain = fuse_scores([0.1, 0.5, 0.3], [3.0, 1.0, 2.0])
    assert fuse_scores([10.0, 50.0, 30.0], [-2.0, -4.0, -3.0]) == pytest.approx(plain)


def test_a_constant_side_has_no_say() -> None:
    assert zscores([0.3, 0.3, 0.3]).tolist() == [0.0, 0.0, 0.0]
    assert zscores([]).tolist() == []
    assert fuse_scores([0.1 + 0.2, 0.3], [1.0, 2.0]) == pytest.approx([-1.0, 1.0])


def test_rrf_by_hand() -> None:
    assert fuse_scores([9.0, 8.0], [1.0, 2.0], "rrf") == pytest.approx([1 / 61 + 1 / 62, 1 / 62 + 1 / 61])


def test_runs_are_fused_over_the_rerankers_candidates() -> None:
    first = {"q": {"a": 3.0, "b": 1.0, "deep": 0.0}}
    assert fuse_runs(first, {"q": {"a": 2.0, "b": 4.0}}) == {"q": {"a": 0.0, "b": 0.0}}
    with pytest.raises(UserError, match='no score for passage "x"'):
        fuse_runs(first, {"q": {"x": 1.0}})
    with pytest.raises(UserError, match="one first-stage score per passage"):
        fuse_scores([1.0], [1.0, 2.0])


def test_the_weight_is_chosen_by_the_metric() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    right = {"q1": {"a": 1.0, "b": 0.0}, "q2": {"a": 0.0, "b": 1.0}}
    wrong = {query: {name: -score for name, score in scores.items()} for query, scores in right.items()}
    good = choose_weight(wrong, right, qrels, grid=(0.0, 0.5, 2.0, 4.0))
    assert (good.weight, good.value) == (2.0, 1.0)
    assert good.curve[0.5] < 1.0
    assert choose_weight(right, wrong, qrels).weight == 0.0
    with pytest.raises(UserError, match="development"):
        choose_weight(right, wrong, {})
