"""The bar's arithmetic and the rule of patience."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from finerank.training.callbacks import Bar, out_of_patience
from finerank.training.dataset import EpochBatches


@pytest.mark.parametrize(
    ("batch", "accumulation", "drop_last", "expected"),
    [(4, 1, False, [0, 4, 8, 10, 14]), (4, 1, True, [0, 4, 8, 12, 16]), (2, 2, False, [0, 4, 8, 10, 14]),
     (16, 1, False, [0, 10, 20, 30, 40])],
)  # fmt: skip
def test_rows_after_each_step(batch: int, accumulation: int, drop_last: bool, expected: list[int]) -> None:
    args = SimpleNamespace(gradient_accumulation_steps=accumulation)
    bar = Bar("training", EpochBatches(10, batch, 0, drop_last=drop_last))
    assert [bar._rows_at(args, step) for step in range(5)] == expected


@pytest.mark.parametrize(
    ("values", "patience", "stop"),
    [
        ([0.9, 0.1], 1, False),  # the first is the base model's
        ([0.0, 0.5, 0.5], 1, True),
        ([0.0, 0.5, 0.6], 1, False),
        ([0.0, 0.5, 0.4, 0.6], 2, False),
        ([0.0, 0.5, 0.4, 0.5], 2, True),
        ([0.0, 0.5, 0.4, 0.3], None, False),
    ],
)
def test_out_of_patience(values: list[float], patience: int | None, stop: bool) -> None:
    history = [{"eval_MRR": value, "step": step} for step, value in enumerate(values)]
    assert out_of_patience([*history, {"loss": 1.0, "step": 3}], "MRR", patience) is stop
    falling = [{**entry, "eval_MRR": -entry["eval_MRR"]} for entry in history]
    assert out_of_patience(falling, "MRR", patience, sign=-1) is stop
