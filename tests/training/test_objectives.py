"""Losses of vectors, and what a run adds up, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from finerank.core.errors import UsageError, UserError
from finerank.core.records import Group
from finerank.training.contrastive import (
    info_nce,
    known_positive_mask,
    likely_positive_mask,
    m3_distillation,
    similarities,
)
from finerank.training.dataset import Collator
from finerank.training.losses import kl_divergence, margin_mse, ranknet
from finerank.training.objectives import Distillation, embedder_objective, matryoshka, reranker_objective
from tests.training.test_losses import NAN, nll, softmax

QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PASSAGES = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
"""Two queries, G = 2; q·p = [[.8, 0, .6, 1], [.6, 1, .8, 0]]."""
OUTPUTS = {"queries": QUERIES, "passages": PASSAGES}
BATCH = {"passage_ids": torch.tensor([1, 2, 3, 4]), "positive_ids": [torch.tensor([1]), torch.tensor([3])]}


def test_info_nce_takes_every_passage_of_the_batch() -> None:
    losses = info_nce(similarities(QUERIES, PASSAGES, 2, 0.5))
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 1.2, 2], 0), nll([1.2, 2, 1.6, 0], 2)], abs=1e-6)


def test_without_in_batch_negatives_the_own_group_counts() -> None:
    for given, batch in ((False, BATCH), (True, BATCH | {"in_batch": False})):
        losses = embedder_objective(temperature=0.5, in_batch=given)(OUTPUTS, batch)
        assert losses.tolist() == pytest.approx([nll([1.6, 0], 0), nll([1.6, 0], 0)], abs=1e-6)


def test_hidden_passages_do_not_count_but_the_own_group_always_does() -> None:
    hidden = torch.tensor([[True, False, True, False], [False, True, True, False]])
    losses = info_nce(similarities(QUERIES, PASSAGES, 2, 0.5, hidden=hidden))
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 2], 0), nll([1.2, 1.6, 0], 1)], abs=1e-6)


def test_passages_of_other_devices_stand_around_the_own_ones() -> None:
    """The second query's device holds it alone; its group begins at row 2 of all passages."""
    losses = info_nce(similarities(QUERIES[1:], PASSAGES, 2, 0.5, start=2))
    assert losses.tolist() == pytest.approx([nll([1.2, 2, 1.6, 0], 2)], abs=1e-6)


def test_info_nce_with_one_query_and_one_passage_is_zero() -> None:
    assert info_nce(similarities(QUERIES[:1], PASSAGES[:1], 1, 0.02)).tolist() == [0.0]


def test_known_positive_mask() -> None:
    mask = known_positive_mask(torch.tensor([7, 8, 9, 7]), [torch.tensor([7, 5]), torch.tensor([9])])
    assert mask.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_a_shared_positive_is_not_a_negative_of_either_query() -> None:
    batch = {
        "passage_ids": torch.tensor([1, 2, 1, 3]),
        "positive_ids": [torch.tensor([1]), torch.tensor([1])],
    }
    losses = embedder_objective(temperature=0.5)(OUTPUTS, batch)
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 2], 0), nll([2, 1.6, 0], 1)], abs=1e-6)


def test_a_copy_of_a_positive_in_another_form_is_masked_too() -> None:
    groups = [
        Group("q1", ("Red  Cat", "dog"), 0, None, frozenset({"Red  Cat"})),
        Group("q2", ("red cat", "ﬁsh"), 1, None, frozenset({"red cat", "FISH"})),
    ]
    batch = Collator(lambda groups: {})([(group, True) for group in groups])
    mask = known_positive_mask(batch["passage_ids"], batch["positive_ids"])
    assert mask.tolist() == [[True, False, True, False], [True, False, True, True]]


def test_cosine_takes_the_length_out_of_the_vectors() -> None:
    outputs = {"queries": QUERIES * 3, "passages": PASSAGES * torch.tensor([[1.0], [5.0], [7.0], [2.0]])}
    by_cosine = embedder_objective(temperature=0.5, cosine=True)(outputs, BATCH)
    assert by_cosine.tolist() == pytest.approx(info_nce(similarities(QUERIES, PASSAGES, 2, 0.5)).tolist(), abs=1e-5)
    raw = embedder_objective(temperature=1.0)(outputs, BATCH)
    assert raw.tolist() == pytest.approx([nll([2.4, 0, 12.6, 6], 0), nll([1.8, 15, 16.8, 0], 2)], abs=1e-4)


def test_passages_far_above_the_positive_are_left_out_where_asked() -> None:
    found = similarities(QUERIES, PASSAGES, 2, 0.5)
    # Margin .15: the first query's positive has .8, the last passage 1; the second's .8, the second passage 1.
    assert likely_positive_mask(found, 0.15, 0.5).tolist() == [[False] * 3 + [True], [False, True, False, False]]
    losses = embedder_objective(temperature=0.5, false_negative_margin=0.15)(OUTPUTS, BATCH)
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 1.2], 0), nll([1.2, 1.6, 0], 1)], abs=1e-6)


def test_a_row_that_only_fills_a_place_is_nobodys_negative() -> None:
    losses = embedder_objective(temperature=0.5)(OUTPUTS, BATCH | {"counts": torch.tensor([1.0, 0.0])})
    assert losses[0].item() == pytest.approx(nll([1.6, 0], 0), abs=1e-6)


def test_m3_distillation_by_hand() -> None:
    teacher = torch.tensor([[2.0, 1.0], [0.0, NAN]])
    losses = m3_distillation(similarities(QUERIES, PASSAGES, 2, 0.5), teacher)
    first, second = softmax([2, 1])
    expected = first * nll([1.6, 0, 1.2, 2], 0) + second * nll([0, 1.2, 2], 0)
    assert losses.tolist() == pytest.approx([expected, nll([1.2, 2, 1.6, 0], 2)], abs=1e-6)


def test_m3_distillation_without_in_batch_negatives_is_defined() -> None:
    batch = BATCH | {"teacher": torch.tensor([[2.0, 1.0], [0.0, 3.0]])}
    objective = embedder_objective(temperature=0.5, hard=False, in_batch=False, distillation=Distillation("m3_kd"))
    first, second = softmax([2, 1])
    # Of a group of two nothing is left to compete with the second passage.
    assert objective(OUTPUTS, batch)[0].item() == pytest.approx(first * nll([1.6, 0], 0) + second * 0, abs=1e-6)


def test_distillation_is_added_with_its_weight() -> None:
    scores, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[3.0, 1.0, NAN]])
    outputs, batch = {"scores": scores}, {"teacher": teacher}
    hard = nll([2, 0, 1], 0)
    for kind, soft in (
        ("kl", kl_divergence(scores, teacher, 2.0)),
        ("margin_mse", margin_mse(scores, teacher)),
        ("ranknet", ranknet(scores, teacher)),
    ):
        distillation = Distillation(kind, temperature=2.0, weight=0.3)
        both = reranker_objective("ce", distillation)(outputs, batch)
        assert both.tolist() == pytest.approx([hard + 0.3 * soft.item()], abs=1e-6)
        alone = reranker_objective(None, distillation)(outputs, batch)
        assert alone.tolist() == pytest.approx([0.3 * soft.item()], abs=1e-6)


def test_a_teacher_of_probabilities_is_read_as_logits() -> None:
    scores = torch.tensor([[2.0, 0.0]])
    teacher = torch.tensor([[2.0, -1.0]])
    by_logit = reranker_objective(None, Distillation("kl"))({"scores": scores}, {"teacher": teacher})
    by_share = reranker_objective(None, Distillation("kl", probabilities=True))(
        {"scores": scores}, {"teacher": teacher.sigmoid()}
    )
    assert by_share.tolist() == pytest.approx(by_logit.tolist(), abs=1e-5)


def test_an_embedder_is_taught_over_its_own_group() -> None:
    teacher = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    objective = embedder_objective(temperature=0.5, hard=False, distillation=Distillation("kl"))
    own = torch.tensor([[1.6, 0.0], [1.6, 0.0]])
    assert objective(OUTPUTS, BATCH | {"teacher": teacher}).tolist() == pytest.approx(
        kl_divergence(own, teacher).tolist(), abs=1e-6
    )


def test_matryoshka_is_the_mean_over_the_lengths() -> None:
    base = embedder_objective(temperature=0.5, cosine=True)
    queries, passages = torch.randn(2, 4), torch.randn(4, 4)
    parts = [base({"queries": queries[:, :size], "passages": passages[:, :size]}, BATCH) for size in (2, 4)]
    both = matryoshka(base, [2, 4])({"queries": queries, "passages": passages}, BATCH)
    assert both.tolist() == pytest.approx(((parts[0] + parts[1]) / 2).tolist(), abs=1e-6)
    with pytest.raises(UsageError, match="--mrl_dims 8: the vectors of this model have 4"):
        matryoshka(base, [2, 8])({"queries": queries, "passages": passages}, BATCH)


@pytest.mark.parametrize(("name", "value"), [("ce", math.log(4)), ("bce", math.log(2)), ("ranknet", math.log(2))])
def test_reranker_losses_by_name(name: str, value: float) -> None:
    assert reranker_objective(name)({"scores": torch.zeros(3, 4)}, {}).tolist() == pytest.approx([value] * 3, abs=1e-6)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(UserError, match="--temperature"):
        embedder_objective(temperature=0.0)
