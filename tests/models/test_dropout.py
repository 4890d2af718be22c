"""Dropout by masks out of a pool: its rate, its scale, its gradient, and that it is replayed."""

from __future__ import annotations

import pytest
import torch

from finerank.models import dropout
from finerank.models.attention import set_dropout
from finerank.models.dropout import PooledDropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_share_dropped_and_the_scale(p: float) -> None:
    torch.manual_seed(0)
    layer = PooledDropout(p)
    seen = torch.stack([layer(torch.ones(500, 40)) for _ in range(50)])
    assert seen.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
    share = (seen == 0).float()
    assert share.mean() == pytest.approx(p, abs=0.002)
    # No element is dropped more often than another, no row more than another, and no two calls drop alike.
    assert share.mean(0).std() == pytest.approx((p * (1 - p) / 50) ** 0.5, rel=0.05)
    assert share.mean(2).std() == pytest.approx((p * (1 - p) / 40) ** 0.5, rel=0.05)
    pairs = torch.corrcoef(share.flatten(1))
    assert (pairs - torch.eye(50)).abs().max() < 0.04


def test_the_gradient_passes_where_the_value_does() -> None:
    values = torch.randn(64, 8, requires_grad=True)
    result = PooledDropout(0.3)(values)
    result.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(result == 0, 0.0, 1 / 0.7))


def test_it_is_replayed_and_off_in_evaluation() -> None:
    layer, values = PooledDropout(0.2), torch.randn(10, 10)
    state = torch.get_rng_state()
    first, second = layer(values), layer(values)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(layer(values), first)
    assert layer.eval()(values) is values
    assert PooledDropout(0.0)(values) is values


def test_the_pool_leaves_the_generator_alone_and_keeps_the_dtype() -> None:
    dropout._pool.cache_clear()
    torch.manual_seed(3)
    expected = torch.randint(dropout.POOL - 6, ())
    torch.manual_seed(3)
    result = PooledDropout(0.25)(torch.ones(6, dtype=torch.bfloat16))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, dropout._pool(0.25, torch.bfloat16)[int(expected) : int(expected) + 6])


def test_what_the_pool_has_no_room_for_is_drawn() -> None:
    large = torch.ones(dropout.POOL // 2 + 1)
    assert (PooledDropout(0.5)(large) == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert not PooledDropout(1.0)(torch.ones(3)).any()


def test_layers_are_replaced_and_can_be_set_again() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1))
    set_dropout(model, None)
    assert model[1].p == 0.1
    set_dropout(model, 0.4)
    assert isinstance(model[1], PooledDropout)
    assert model[1].p == 0.4
