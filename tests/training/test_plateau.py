"""The plateau's course off the log: by hand, and beside torch's own scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finerank.training.plateau import Plateau


def log(values: list[float], name: str = "loss") -> list[dict[str, Any]]:
    """Return a log whose first evaluation is the base model's."""
    entries: list[dict[str, Any]] = [{f"eval_{name}": 0.0, "step": 0}]
    for step, value in enumerate(values, start=1):
        entries += [{"loss": 1.0, "step": step}, {f"eval_{name}": value, "step": step}]
    return entries


@pytest.mark.parametrize(
    ("values", "patience", "reductions"),
    [
        ([1.0, 0.9, 0.8], 0, 0),
        ([1.0, 1.0], 0, 1),
        ([1.0, 1.0, 1.0], 1, 1),
        ([1.0, 0.99995, 0.99995], 1, 1),  # better by less than 1e-4 of it is no better
        ([1.0, 1.1, 0.5, 0.6], 1, 0),
        ([1.0, 1.1, 1.1, 1.1, 1.1], 1, 2),
    ],
)
def test_by_hand(values: list[float], patience: int, reductions: int) -> None:
    assert Plateau("loss", -1, 0.3, patience, 1e-3).reductions(log(values)) == reductions


def test_the_end() -> None:
    rule = Plateau("loss", -1, 0.5, 0, 0.2)
    assert [rule.exhausted(log([1.0] * count)) for count in range(1, 6)] == [False, False, False, True, True]
    assert not Plateau("loss", -1, 0.5, 0, 0.0).exhausted(log([1.0] * 50))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(0, 3), st.sampled_from([-1, 1]),
)  # fmt: skip
def test_it_is_what_torch_does(values: list[int], patience: int, sign: int) -> None:
    rule = Plateau("loss", sign, 0.5, patience, 0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-6)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **rule.scheduler_arguments())
    for value in values:
        scheduler.step(value / 10)
    expected = 1e-6 * 0.5 ** rule.reductions(log([value / 10 for value in values]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
