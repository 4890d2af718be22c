"""Calibration: scores that mean what they say have no error, others the one computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finerank.evaluation.calibration import calibrate


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
