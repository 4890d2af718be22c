"""Weights stored with a model: one per first stage, and never used on the queries they were chosen on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finerank.core.errors import UsageError, UserError
from finerank.evaluation.fusion_store import (
    FILE_NAME,
    Fusion,
    load_fusions,
    query_digests,
    save_fusion,
    stored_or_given,
)

SEEN = query_digests(["which one", "what for"])
TUNED = Fusion("zscore", 1.5, "nDCG@10", 2, "tuned", SEEN)
BM25 = Fusion("zscore", 0.3, "nDCG@10", 2, "bm25", SEEN)


def test_stored_with_the_model_and_read_back(tmp_path: Path) -> None:
    save_fusion(tmp_path, TUNED)
    assert json.loads((tmp_path / FILE_NAME).read_text())["fusions"][0]["weight"] == 1.5
    assert load_fusions(tmp_path) == [TUNED]
    assert stored_or_given(str(tmp_path), "zscore", None, "tuned") == TUNED
    assert stored_or_given(str(tmp_path), "zscore", 3.0, "tuned").weight == 3.0


def test_each_first_stage_keeps_its_own_weight(tmp_path: Path) -> None:
    for fusion in (TUNED, BM25, Fusion("rrf", 2.0, "MRR", 2, "bm25", SEEN)):
        save_fusion(tmp_path, fusion)
    assert stored_or_given(str(tmp_path), "zscore", None, "tuned").weight == 1.5
    assert stored_or_given(str(tmp_path), "zscore", None, "bm25").weight == 0.3
    assert stored_or_given(str(tmp_path), "rrf", None, "bm25").weight == 2.0
    save_fusion(tmp_path, Fusion("zscore", 0.7, "nDCG@10", 2, "bm25", SEEN))
    assert [item.weight for item in load_fusions(tmp_path) if item.fusion == "zscore"] == [0.7, 1.5]
    with pytest.raises(UserError, match=r"no zscore weight over other \(there is one over bm25, tuned\)"):
        stored_or_given(str(tmp_path), "zscore", None, "other")


def test_without_a_first_stage_the_only_one_is_taken(tmp_path: Path) -> None:
    save_fusion(tmp_path, TUNED)
    assert stored_or_given(str(tmp_path), "zscore", None) == TUNED
    save_fusion(tmp_path, BM25)
    with pytest.raises(UsageError, match="several first stages: bm25 .w=0.3., tuned .w=1.5."):
        stored_or_given(str(tmp_path), "zscore", None)


@pytest.mark.parametrize("judged", [["another", "what for"], ["  WHICH   one "]])
def test_a_weight_is_refused_where_it_was_chosen(tmp_path: Path, judged: list[str]) -> None:
    save_fusion(tmp_path, TUNED)
    with pytest.raises(UserError, match=f"chosen on 1 of the {len(judged)} queries"):
        stored_or_given(str(tmp_path), "zscore", None, "tuned", judged)
    assert stored_or_given(str(tmp_path), "zscore", None, "tuned", ["another"]) == TUNED
    assert stored_or_given(str(tmp_path), "zscore", 2.0, "tuned", judged).weight == 2.0


def test_a_weight_that_hides_its_queries_judges_nothing(tmp_path: Path) -> None:
    save_fusion(tmp_path, Fusion("zscore", 1.0, "nDCG@10", 9, "bm25"))
    assert stored_or_given(str(tmp_path), "zscore", None, "bm25").weight == 1.0
    with pytest.raises(UserError, match="does not say which queries"):
        stored_or_given(str(tmp_path), "zscore", None, "bm25", ["any"])


@pytest.mark.parametrize(
    "content",
    [
        "[]", '{"weight": 1.0}', '{"fusions": [{"fusion": "sum", "weight": 1}]}', '{"fusions": [{"weight": "1"}]}',
        '{"fusions": [{"fusion": "rrf", "weight": NaN}]}', '{"fusions": [{"fusion": "rrf", "weight": 1, "seen": 3}]}',
        '{"fusions": [3]}', "{",
    ],
)  # fmt: skip
def test_a_damaged_store_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError) as caught:
        load_fusions(tmp_path)
    assert FILE_NAME in str(caught.value)


def test_nothing_stored(tmp_path: Path) -> None:
    assert load_fusions(tmp_path) == []
    assert load_fusions("some/hub-name") == []
    assert stored_or_given(str(tmp_path), "rrf", None).weight == 1.0
    with pytest.raises(UserError, match="no zscore weight"):
        stored_or_given(str(tmp_path), "zscore", None)
