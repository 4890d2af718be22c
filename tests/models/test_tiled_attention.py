"""Attention by a processor's tiles is attention: its values, its gradients, whatever the lengths and the threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from finerank.models import packed, torch_block

tiled = torch_block.tiled()
pytestmark = pytest.mark.skipif(tiled is None, reason="no AMX, or no numba")

LENGTHS = [(1,), (16, 16), (33, 32, 31, 17, 5, 1), (130, 7), (512,)]
SHAPES = [(3, 32), (2, 64), (1, 96)]


def states_of(lengths: tuple[int, ...], heads: int, width: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(lengths), 3, heads, width).to(torch.bfloat16).requires_grad_()


def starts_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def exact(states: Tensor, lengths: tuple[int, ...]) -> Tensor:
    parts = []
    for part in torch.split(states.double(), list(lengths)):
        query, key, value = part.permute(1, 2, 0, 3)
        attended = packed.products(query[None], key[None], value[None], query.shape[-1] ** -0.5)[0]
        parts.append(attended.transpose(0, 1).flatten(1))
    return torch.cat(parts)


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("heads", "width"), SHAPES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients(lengths: tuple[int, ...], heads: int, width: int) -> None:
    states = states_of(lengths, heads, width)
    attended = tiled.attend(states, starts_of(lengths))
    expected = exact(states, lengths)
    assert error(attended, expected) < 0.004  # bfloat16 keeps eight bits: 2 ** -9 each way
    above = torch.randn_like(attended)
    (gradient,) = torch.autograd.grad(attended, states, above)
    (expected_gradient,) = torch.autograd.grad(expected, states, above.double())
    if len(lengths) > 1 or lengths[0] > 1:
        assert error(gradient, expected_gradient) < 0.006
    else:  # the gradients of queries and keys are nothing: one position attends to itself
        torch.testing.assert_close(gradient[:, 2].flatten(1), above)
        assert gradient[:, :2].abs().max() < 0.02


def test_inputs_do_not_see_each_other() -> None:
    lengths = (20, 40)
    states = states_of(lengths, 2, 32).detach()
    both = tiled.attend(states, starts_of(lengths))
    alone = tiled.attend(states[20:], starts_of((40,)))
    assert torch.equal(both[20:], alone)
    states[:20] = float("nan")
    spoilt = tiled.attend(states, starts_of(lengths))
    assert torch.equal(spoilt[20:], alone)
    assert spoilt[:20].isnan().all()


def test_far_scores_and_equal_ones() -> None:
    lengths = (48,)
    states = states_of(lengths, 1, 32).detach()
    with torch.no_grad():
        far = states.clone()
        far[:, :2] *= 30
        assert error(tiled.attend(far, starts_of(lengths)), exact(far, lengths)) < 0.01
        even = states.clone()
        even[:, :2] = 0
        mean = even[:, 2].double().mean(0).flatten().expand(48, -1)
        assert error(tiled.attend(even, starts_of(lengths)), mean) < 0.004


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_by_any_number_of_threads(threads: int) -> None:
    lengths = (100, 3, 2, 64)
    states = states_of(lengths, 2, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = tiled.attend(states, starts_of(lengths))
        (of_alone,) = torch.autograd.grad(alone.float().square().sum(), states)
        torch.set_num_threads(threads)
        attended = tiled.attend(states, starts_of(lengths))
        (gradient,) = torch.autograd.grad(attended.float().square().sum(), states)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(attended, alone)
    assert torch.equal(gradient, of_alone)


def test_products_of_torch_beside_it_are_right() -> None:
    """oneDNN sets up the same tiles for its products, and remembers how they were."""
    lengths = (70, 60)
    states = states_of(lengths, 2, 32).detach()
    left, right = torch.randn(300, 200).to(torch.bfloat16), torch.randn(200, 130).to(torch.bfloat16)
    expected, attended = left @ right, tiled.attend(states, starts_of(lengths))

    def alternate(_: int) -> bool:
        product, again = left @ right, tiled.attend(states, starts_of(lengths))
        return torch.equal(product, expected) and torch.equal(again, attended)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(alternate, range(20)))
