"""The loss of rerankers that score by layer, against figures worked out by hand: every layer learns."""

from __future__ import annotations

import math

import pytest
import torch

from finerank.training.objectives import Distillation, reranker_objective
from tests.training.test_losses import nll, softmax

LAYERS = [[[1.0, 0.0], [0.5, 1.5]], [[2.0, -1.0], [1.0, 1.0]], [[0.0, 3.0], [2.0, 0.0]]]
"""Scores of three layers for two queries of two passages each."""


def outputs(grad: bool = False) -> dict[str, torch.Tensor]:
    layered = torch.tensor(LAYERS).permute(1, 2, 0).contiguous().requires_grad_(grad)
    return {"scores": layered[..., -1], "layer_scores": layered}


def kl(teacher: list[float], student: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student)))


def test_every_layer_has_its_loss_and_the_last_teaches_the_others() -> None:
    found = reranker_objective("ce")(outputs(), {})
    for query in range(2):
        scores = [layer[query] for layer in LAYERS]
        expected = sum(nll(each, 0) for each in scores) + kl(scores[2], scores[0]) + kl(scores[2], scores[1])
        assert found[query].item() == pytest.approx(expected, abs=1e-5)


def test_without_self_distillation_the_layers_losses_are_added_up() -> None:
    found = reranker_objective("ce", self_distillation=False)(outputs(), {})
    assert found.tolist() == pytest.approx([sum(nll(layer[query], 0) for layer in LAYERS) for query in range(2)])


def test_a_teacher_teaches_all_layers_and_takes_the_place_of_the_last() -> None:
    teacher = [[2.0, 1.0], [0.0, 4.0]]
    batch = {"teacher": torch.tensor(teacher)}
    found = reranker_objective("ce", Distillation("kl", weight=0.5))(outputs(), batch)
    for query in range(2):
        scores = [layer[query] for layer in LAYERS]
        expected = sum(nll(each, 0) + 0.5 * kl(teacher[query], each) for each in scores)
        assert found[query].item() == pytest.approx(expected, abs=1e-5)


def test_the_last_layer_learns_nothing_from_the_others() -> None:
    """Its gradient is that of its own cross-entropy; the others' are those of their sums."""
    both = outputs(grad=True)
    reranker_objective("ce")(both, {}).sum().backward()
    found = both["layer_scores"].grad
    assert found is not None
    for query in range(2):
        last = softmax(LAYERS[2][query])
        for layer in range(3):
            own = softmax(LAYERS[layer][query])
            expected = [own[0] - 1, own[1]]
            if layer < 2:
                expected = [value + share - goal for value, share, goal in zip(expected, own, last)]
            assert found[query, :, layer].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_layer_is_a_plain_reranker() -> None:
    layered = outputs()["layer_scores"][..., -1:]
    alone = reranker_objective("lambda")({"scores": layered[..., 0], "layer_scores": layered}, {})
    assert torch.equal(alone, reranker_objective("lambda")({"scores": layered[..., 0]}, {}))
