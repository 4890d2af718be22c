"""Row figures by hand and against brute force."""

from __future__ import annotations

import random

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.core.records import Row
from finerank.evaluation.metrics import evaluate_run
from finerank.evaluation.rows import best_threshold, lay_out, pair_figures, row_accuracies

ROWS = [Row("q", ("good",), ("bad", "worse")), Row("q", ("fine", "good"), ("bad",)), Row("alone", ("only",))]


def test_layout_and_ranking_ties_are_pessimistic() -> None:
    rows = lay_out(ROWS)
    assert rows.pairs()[0] == ("q", "good")
    assert len(rows.pairs()) == 7
    run = rows.run([1.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.5])
    found = evaluate_run(rows.qrels, run, ["MRR", "hit@1"])
    assert list(found["MRR"].values()) == [0.5, 1.0, 1.0]
    assert list(found["hit@1"].values()) == [0.0, 1.0, 1.0]


def test_pair_accuracy_counts_ties_half() -> None:
    rows = lay_out(ROWS)
    found = row_accuracies(rows, rows.run([1.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.5]))
    assert found["pair accuracy"] == {"row-1": 0.75, "row-2": 0.5}
    assert found["all positives first"] == {"row-1": 0.0, "row-2": 0.0}


def test_pair_figures_by_hand() -> None:
    rows = lay_out([Row("a", ("p",), ("n",)), Row("b", ("p",), ("n", "m"))])
    scores = [2.0, 1.0, -1.0, -2.0, -3.0]  # true positive, false positive, missed positive, two right negatives
    found = {name: value.mean for name, value in pair_figures(rows, scores, boundary=0.0, resamples=0).items()}
    assert found["precision"] == 0.5
    assert found["recall"] == 0.5
    assert found["F1"] == 0.5
    assert found["AUC"] == pytest.approx(5 / 6)
    assert found["best F1"] == pytest.approx(0.8)
    assert best_threshold(rows, scores) == -1.0


@pytest.mark.parametrize("seed", range(20))
def test_auc_and_best_f1_equal_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    rows = lay_out([Row("q", ("p",) * draw.randint(1, 3), ("n",) * draw.randint(1, 5)) for _ in range(6)])
    scores = [float(draw.randint(-3, 3)) for _ in rows.pairs()]
    positive = rows.labels()[0]
    good = [score for score, label in zip(scores, positive) if label]
    bad = [score for score, label in zip(scores, positive) if not label]
    area = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    best = max(
        2 * sum(g >= bound for g in good) / (sum(g >= bound for g in good) + sum(b >= bound for b in bad) + len(good))
        for bound in scores
    )
    found = pair_figures(rows, scores, boundary=0.0, resamples=0)
    assert found["AUC"].mean == pytest.approx(area)
    assert found["best F1"].mean == pytest.approx(best)


def test_intervals_resample_rows() -> None:
    draw = random.Random(0)
    rows = lay_out([Row("q", ("p",), ("n",) * 3) for _ in range(40)])
    scores = [draw.gauss(1.0 if label else 0.0, 1.0) for label in rows.labels()[0]]
    found = pair_figures(rows, scores, boundary=0.5, resamples=200)
    for value in found.values():
        assert value.low <= value.mean <= value.high
        assert 0.0 < value.high - value.low < 0.5
    assert found == pair_figures(rows, scores, boundary=0.5, resamples=200)


def test_nan_is_refused() -> None:
    rows = lay_out(ROWS)
    with pytest.raises(UserError, match="finite"):
        rows.run([float("nan")] * 7)
