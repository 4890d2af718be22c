"""The ablation's arithmetic by hand: what is tried, what counts, McNemar's test."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from finerank.evaluation.ablation import Setting, one_type, original_keys
from finerank.evaluation.ablation_trials import Listed, Naming, Trial, trial_of, verdicts_of
from finerank.evaluation.significance import mcnemar, paired_randomisation
from finerank.retrieval.spaces import Pool


def listed(*verdicts: str, entities: tuple[str, ...] = ()) -> Listed:
    return Listed([f"d{place}" for place in range(4)], list(verdicts), 0.5, 0.25, list(entities))


def test_only_what_is_needed_is_judged_and_once() -> None:
    answers = {(0, 7): "positive", (0, 8): "unknown", (0, 9): "negative", (1, 7): "negative", (1, 9): "negative"}
    asked: list[tuple[int, int]] = []

    def judge(pairs):
        asked.extend(pairs)
        return [answers[pair] for pair in pairs]

    lists = [{"a": [8, 7, 9], "b": [7, 9, 8]}, {"a": [9, 7], "b": [7, 9]}]
    found = verdicts_of(lists, judge)
    assert found == [{8: "unknown", 7: "positive"}, {9: "negative", 7: "negative"}]
    assert sorted(asked) == [(0, 7), (0, 8), (1, 7), (1, 9)]


def test_a_trial_ends_its_lists_at_the_first_success() -> None:
    pool = Pool(np.array([8, 7, 9]), np.ones(3, np.float32), np.array([0.1, 0.2, 0.3]), np.eye(3))
    naming = Naming(lambda number: f"d{number}", lambda number: {"own"} if number == 1 else {"own", f"n{number}"})
    trial = trial_of(
        pool, {"standard": [0, 1, 2], "diverse": [2]}, {8: "unknown", 7: "positive", 9: "negative"}, naming, source=1,
        query="q", entity="e",
    )  # fmt: skip
    assert trial.lists["standard"] == Listed(
        ["d8", "d7", "d9"], ["unknown", "positive"], 0.0, pytest.approx(0.2), ["n7", "n8", "n9"]
    )
    assert trial.lists["standard"].rank == 2
    assert trial.lists["diverse"].rank is None
    assert Trial.of(trial.to_mapping()) == trial


def test_the_originals_figures_by_hand() -> None:
    trials = [
        Trial("s", "q", "e", {"standard": first, "diverse": second})
        for first, second in [
            (listed("positive", entities=("a",)), listed("positive", entities=("a", "b"))),
            (listed("negative", "unknown", "positive"), listed("negative", "positive")),
            (listed("negative", "negative", "negative", "unknown"), listed("positive")),
        ]
    ]
    setting = Setting(
        k=4, config_path="c.yaml", num=3, min_length=300, doc_ids_file=None, skipped={"diverse_ft": "gone"}
    )
    found = one_type(trials, "standard", setting)
    assert (found["total_attempts"], found["successful_examples"], found["failed_attempts"]) == (3, 2, 1)
    assert found["success_rate"] == pytest.approx(2 / 3)
    assert found["avg_attempts_per_success"] == 2.0  # (1 + 3) / 2
    assert found["first_success_mrr"] == pytest.approx((1 + 1 / 3) / 3)
    assert (found["success@1"], found["success@3"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found["verdicts"] == {"positive": 2, "negative": 4, "unknown": 2}
    assert found["entity_coverage"] == pytest.approx(0.5 / 3)
    data = original_keys(trials, setting)
    assert data["results"]["diverse"]["against_standard"] == {
        "only_this": 1, "only_standard": 0, "mcnemar_p": 1.0, "mcnemar_p_holm": 1.0
    }  # fmt: skip
    assert data["results"]["diverse_ft"]["skipped"] == "gone"
    assert data["summary_table"]["avg_attempts"] == [2.0, pytest.approx(4 / 3)]


def test_mcnemar_is_the_sign_test_on_pairs_that_differ() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 2) == pytest.approx(2 * sum(comb(12, count) for count in range(3)) / 2**12)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(600, 400) < 1e-9
    assert mcnemar(3000, 3000) == 1.0
    one, other = [1.0] * 6 + [0.0] * 2, [0.0] * 6 + [1.0] * 2
    assert mcnemar(6, 2) == pytest.approx(paired_randomisation(one, other))
