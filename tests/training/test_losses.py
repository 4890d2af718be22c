"""Losses of a group's scores against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finerank.training.losses import (
    binary_cross_entropy,
    first_is_relevant,
    group_cross_entropy,
    kl_divergence,
    lambda_loss,
    margin_mse,
    ranknet,
    teacher_logits,
)

NAN = math.nan


def nll(scores: list[float], target: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


def softmax(scores: list[float]) -> list[float]:
    whole = sum(math.exp(score) for score in scores)
    return [math.exp(score) / whole for score in scores]


def kl(teacher: list[float], student: list[float], temperature: float = 1.0) -> float:
    wanted = softmax([score / temperature for score in teacher])
    given = softmax([score / temperature for score in student])
    return temperature**2 * sum(one * math.log(one / other) for one, other in zip(wanted, given))


def test_group_cross_entropy_by_hand() -> None:
    losses = group_cross_entropy(torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert losses.tolist() == pytest.approx([nll([2, 0, 1], 0), math.log(3)], abs=1e-6)


def test_group_cross_entropy_works_in_float32_on_half_scores() -> None:
    assert group_cross_entropy(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_binary_cross_entropy_by_hand() -> None:
    def sigmoid(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    expected = -(math.log(sigmoid(2)) + math.log(sigmoid(-1)) + math.log(sigmoid(3))) / 3
    assert binary_cross_entropy(torch.tensor([[2.0, 1.0, -3.0]])).tolist() == pytest.approx([expected], abs=1e-6)


def test_ranknet_by_hand() -> None:
    """Of three passages the first is better than both others, and the second than the third."""
    losses = ranknet(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
    pairs = [math.log(1 + math.exp(2 - 1)), math.log(1 + math.exp(0 - 1)), math.log(1 + math.exp(0 - 2))]
    assert losses.tolist() == pytest.approx([sum(pairs) / 3], abs=1e-6)


def test_ranknet_leaves_out_what_is_not_known_or_equal() -> None:
    losses = ranknet(torch.tensor([[1.0, 2.0, 0.0], [1.0, 5.0, 9.0]]), torch.tensor([[3.0, NAN, 0.0], [1.0, 1.0, 1.0]]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)), 0.0], abs=1e-6)


def test_lambda_loss_by_hand() -> None:
    """Scores put the positive second of three: its pairs are with ranks 1 and 3."""
    losses = lambda_loss(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))

    def weight(rank: int, other: int) -> float:
        apart = abs(rank - other)
        step = 1 / math.log2(1 + apart) - 1 / math.log2(2 + apart)
        swap = abs(1 / math.log2(1 + rank) - 1 / math.log2(1 + other))
        return 10 * step + swap

    above = weight(2, 1) * math.log2(1 + math.exp(2 - 1))
    below = weight(2, 3) * math.log2(1 + math.exp(0 - 1))
    assert losses.tolist() == pytest.approx([(above + below) / 2], abs=1e-5)


def test_lambda_loss_of_one_grade_is_nothing() -> None:
    assert lambda_loss(torch.randn(2, 4), torch.zeros(2, 4)).tolist() == [0.0, 0.0]


def test_kl_by_hand_and_with_temperature() -> None:
    scores, teacher = [2.0, 0.0, 1.0], [1.0, -1.0, 4.0]
    found = [kl_divergence(torch.tensor([scores]), torch.tensor([teacher]), t).item() for t in (1.0, 2.0)]
    assert found == pytest.approx([kl(teacher, scores), kl(teacher, scores, 2.0)], abs=1e-6)


def test_kl_takes_passages_without_a_teacher_score_out_of_both_sides() -> None:
    scores = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True)
    loss = kl_divergence(scores, torch.tensor([[1.0, NAN, 4.0]]))
    assert loss.item() == pytest.approx(kl([1, 4], [2, 1]), abs=1e-6)
    loss.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad[0, 1] == 0


def test_kl_of_the_teacher_itself_is_nothing() -> None:
    scores = torch.randn(3, 5)
    assert kl_divergence(scores, scores).abs().max() < 1e-6


def test_margin_mse_by_hand() -> None:
    losses = margin_mse(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[5.0, 1.0, NAN]]))
    assert losses.tolist() == pytest.approx([(2 - 4) ** 2])
    both = margin_mse(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[5.0, 1.0, 4.0]]))
    assert both.tolist() == pytest.approx([((2 - 4) ** 2 + (1 - 1) ** 2) / 2])


def test_margin_mse_without_known_negatives_is_nothing_and_has_a_gradient() -> None:
    scores = torch.tensor([[2.0, 0.0]], requires_grad=True)
    loss = margin_mse(scores, torch.tensor([[5.0, NAN]]))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0]]


def test_probabilities_become_logits_and_stay_finite() -> None:
    logits = teacher_logits(torch.tensor([0.5, 0.9, 1.0, 0.0, NAN]))
    assert logits[:2].tolist() == pytest.approx([0.0, math.log(9)], abs=1e-5)
    assert logits[2:4].isfinite().all()
    assert logits[4].isnan()


SCORES = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12)


@given(SCORES)
def test_losses_are_finite_not_negative_and_fall_when_the_positive_rises(scores: list[float]) -> None:
    low = torch.tensor([scores])
    high = low.clone()
    high[0, 0] += 1
    relevance = first_is_relevant(low)
    for loss in (group_cross_entropy, binary_cross_entropy, lambda scores: ranknet(scores, relevance)):
        before, after = loss(low).item(), loss(high).item()
        assert math.isfinite(before)
        assert 0 <= after <= before + 1e-6
    assert 0 <= lambda_loss(low, relevance).item() < math.inf
