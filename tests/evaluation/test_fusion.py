"""Fusion by hand, the choice of the weight, and what is stored with a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finerank.core.errors import UserError
from finerank.evaluation.fusion import (
    FILE_NAME,
    Fusion,
    choose_weight,
    fuse_runs,
    fuse_scores,
    load_fusion,
    save_fusion,
    stored_or_given,
    zscores,
)


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


def test_stored_with_the_model_and_read_back(tmp_path: Path) -> None:
    fusion = Fusion("zscore", 1.5, "nDCG@10", 120, "tuned")
    save_fusion(tmp_path, fusion)
    assert json.loads((tmp_path / FILE_NAME).read_text())["weight"] == 1.5
    assert load_fusion(tmp_path) == fusion
    assert stored_or_given(str(tmp_path), "zscore", None) == fusion
    assert stored_or_given(str(tmp_path), "zscore", 3.0).weight == 3.0
    notes: list[str] = []
    stored_or_given(str(tmp_path), "zscore", None, "bm25", notes)
    assert "tuned, not bm25" in notes[0]


@pytest.mark.parametrize("content", ["[]", '{"fusion": "sum", "weight": 1}', '{"weight": "1"}', '{"weight": NaN}', "{"])
def test_a_damaged_store_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError) as caught:
        load_fusion(tmp_path)
    assert FILE_NAME in str(caught.value)


def test_nothing_stored(tmp_path: Path) -> None:
    assert load_fusion(tmp_path) is None
    assert load_fusion("some/hub-name") is None
    assert stored_or_given(str(tmp_path), "rrf", None).weight == 1.0
    with pytest.raises(UserError, match="no zscore weight"):
        stored_or_given(str(tmp_path), "zscore", None)
