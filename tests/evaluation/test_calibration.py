"""Calibration: scores that mean what they say have no error, others the one computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finerank.evaluation import calibration
from finerank.evaluation.calibration import Pairs, best_cut, calibrate, cut_figures, pairs_of


def test_probabilities_that_are_true_have_little_error() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, 50_000)
    truth = rng.random(50_000) < 1 / (1 + np.exp(-logits))
    assert calibrate(logits, truth).error < 0.01
    assert calibrate(logits * 5, truth).error > 0.1
    assert calibrate(logits + 2, truth).error > 0.1


def test_by_hand() -> None:
    found = calibrate([1000.0, -1000.0], [1, 1])
    assert [(each.predicted, each.relevant, each.pairs) for each in found.bins] == [(0.0, 1.0, 1), (1.0, 1.0, 1)]
    assert (found.error, found.brier) == (0.5, 0.5)
    with pytest.raises(ValueError, match="expected scores"):
        calibrate([], [])


def test_pairs_of_a_run_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 0}, "missed": {"a": 1}}
    pairs = pairs_of({"q": {"a": 1.0, "b": 3.0, "unjudged": 2.0}, "not judged": {"a": 9.0}}, qrels)
    assert pairs.scores.tolist() == [1.0, 3.0, 2.0]
    assert pairs.relevant.tolist() == [True, False, False]
    assert (pairs.query.tolist(), pairs.queries) == ([0, 0, 0], 2)


def test_the_best_cut_beats_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "RESAMPLES", 1)
    rng = np.random.default_rng(3)
    for _ in range(50):
        scores = rng.integers(0, 8, 30).astype(float)
        pairs = Pairs(scores, rng.random(30) < scores / 10, rng.integers(0, 5, 30), 5)
        if not pairs.relevant.any():
            continue
        cut = best_cut(pairs)
        assert cut is not None
        values = {score: cut_figures(pairs, score)["F1"].mean for score in set(scores.tolist())}
        assert values[cut] == pytest.approx(max(values.values()))
        assert cut == min(score for score, value in values.items() if value > max(values.values()) - 1e-12)


def test_figures_of_a_cut_by_hand() -> None:
    pairs = Pairs(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, True]), np.array([0, 0, 1, 1]), 2)
    found = cut_figures(pairs, 1.0)
    assert [found[name].mean for name in ("precision", "recall", "F1")] == pytest.approx([2 / 3] * 3)
    assert all(value.low - 1e-9 <= value.mean <= value.high + 1e-9 for value in found.values())
    assert cut_figures(pairs, 9.0)["F1"] == (0.0, 0.0, 0.0)
    assert best_cut(Pairs(np.array([1.0]), np.array([False]), np.array([0]), 1)) is None
