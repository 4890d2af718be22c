"""Clipping by norm and by value: what moves, what is said, what cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import TinyEncoder, train

from finerank.core.errors import UsageError
from finerank.core.train_options import RerankerOptions
from finerank.training import clipping

TORCH = SimpleNamespace(clip_grad_norm_=torch.nn.utils.clip_grad_norm_)
STEP: dict[str, Any] = {
    "family": TinyEncoder, "max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "dropout": 0.0,
    "lr_scheduler_type": "constant",
}  # fmt: skip


def options(**values: Any) -> RerankerOptions:
    return RerankerOptions(train_data=["rows.jsonl"], **values)


@pytest.mark.parametrize(("how", "left"), [("value", [0.5, -0.25, 0.5]), ("norm", [0.3, -0.025, 0.4])])
def test_a_value_turns_the_gradient_and_a_norm_shortens_it(how: str, left: list[float]) -> None:
    """A gradient (3, -0.25, 4), its length 5.00625, under a bound of 0.5."""
    weights, idle = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    weights.grad = torch.tensor([3.0, -0.25, 4.0])
    norm = clipping.clip(TORCH, [weights, idle], 0.5, how)
    assert float(norm) == pytest.approx(math.sqrt(25.0625))
    assert weights.grad.tolist() == pytest.approx(left, rel=2e-3)


def test_a_training_moves_each_weight_by_no_more_than_its_bound(tmp_path: Path) -> None:
    _, free = train(tmp_path / "free", **STEP, max_grad_norm=0.0)
    _, clamped = train(tmp_path / "clamped", **STEP, clip="value", max_grad_norm=0.002)
    start, cut = TinyEncoder(0.0), 0
    for name, before in start.module.state_dict().items():
        gradient = before - free.module.state_dict()[name]
        cut += int((gradient.abs() > 0.002).sum())
        expected = before - gradient.clamp(-0.002, 0.002)
        assert torch.allclose(clamped.module.state_dict()[name], expected, atol=1e-6), name
    assert cut > 10


def test_a_value_alone_is_the_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    typed: dict[str, Any] = {}
    clipping.settle(options(clip="value"), typed)
    assert typed == {"max_grad_norm": 0.5}
    typed = {"max_grad_norm": 0.1}
    clipping.settle(options(clip="value"), typed)
    assert typed == {"max_grad_norm": 0.1}
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="DeepSpeed clips norms only"):
        clipping.settle(options(clip="value"), {"deepspeed": {"zero_optimization": {}}})


@pytest.mark.parametrize(
    ("values", "typed", "said"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {}, True),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {"max_grad_norm": 2.0}, False),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "clip": "norm"}, {}, False),
        ({}, {}, False),
    ],
)
def test_what_seed_002_would_have_clipped_is_said(
    values: dict[str, Any], typed: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(typed)
    clipping.settle(options(**values), typed)
    assert typed == before
    assert ("--clip value cuts each element to ±0.5" in capsys.readouterr().err) is said
