"""Losses against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from finerank.core.errors import UserError
from finerank.core.records import Group
from finerank.training.dataset import Collator
from finerank.training.losses import embedder_loss, group_cross_entropy, info_nce, known_positive_mask, reranker_loss


def nll(scores: list[float], target: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


def test_group_cross_entropy_by_hand() -> None:
    losses = group_cross_entropy(torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert losses.tolist() == pytest.approx([nll([2, 0, 1], 0), math.log(3)], abs=1e-6)


def test_group_cross_entropy_works_in_float32_on_half_scores() -> None:
    assert group_cross_entropy(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PASSAGES = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
"""Two queries, G = 2; q·p = [[.8, 0, .6, 1], [.6, 1, .8, 0]]."""


def test_info_nce_takes_every_passage_of_the_batch() -> None:
    losses = info_nce(QUERIES, PASSAGES, temperature=0.5)
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 1.2, 2], 0), nll([1.2, 2, 1.6, 0], 2)], abs=1e-6)


def test_info_nce_without_in_batch_takes_the_own_group() -> None:
    losses = info_nce(QUERIES, PASSAGES, temperature=0.5, in_batch=False)
    assert losses.tolist() == pytest.approx([nll([1.6, 0], 0), nll([1.6, 0], 0)], abs=1e-6)


def test_masked_passages_do_not_count_but_the_own_positive_always_does() -> None:
    masked = torch.tensor([[True, False, True, False], [False, True, True, False]])
    losses = info_nce(QUERIES, PASSAGES, temperature=0.5, masked=masked)
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 2], 0), nll([1.2, 1.6, 0], 1)], abs=1e-6)


def test_info_nce_with_one_query_and_one_passage_is_zero() -> None:
    assert info_nce(QUERIES[:1], PASSAGES[:1], temperature=0.02).tolist() == [0.0]


def test_known_positive_mask() -> None:
    mask = known_positive_mask(torch.tensor([7, 8, 9, 7]), [torch.tensor([7, 5]), torch.tensor([9])])
    assert mask.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_a_shared_positive_is_not_a_negative_of_either_query() -> None:
    batch = {
        "passage_ids": torch.tensor([1, 2, 1, 3]),
        "positive_ids": [torch.tensor([1]), torch.tensor([1])],
    }
    outputs = {"queries": QUERIES, "passages": PASSAGES}
    losses = embedder_loss(temperature=0.5)(outputs, batch)
    assert losses.tolist() == pytest.approx([nll([1.6, 0, 2], 0), nll([2, 1.6, 0], 1)], abs=1e-6)


def test_a_copy_of_a_positive_in_another_form_is_masked_too() -> None:
    groups = [
        Group("q1", ("Red  Cat", "dog"), 0, None, frozenset({"Red  Cat"})),
        Group("q2", ("red cat", "ﬁsh"), 1, None, frozenset({"red cat", "FISH"})),
    ]
    batch = Collator(lambda groups: {})(groups)
    mask = known_positive_mask(batch["passage_ids"], batch["positive_ids"])
    assert mask.tolist() == [[True, False, True, False], [True, False, True, True]]


def test_cosine_takes_the_length_out_of_the_vectors() -> None:
    batch = {"passage_ids": torch.tensor([1, 2, 3, 4]), "positive_ids": [torch.tensor([1]), torch.tensor([3])]}
    outputs = {"queries": QUERIES * 3, "passages": PASSAGES * torch.tensor([[1.0], [5.0], [7.0], [2.0]])}
    by_cosine = embedder_loss(temperature=0.5, cosine=True)(outputs, batch)
    assert by_cosine.tolist() == pytest.approx(info_nce(QUERIES, PASSAGES, temperature=0.5).tolist(), abs=1e-5)
    raw = embedder_loss(temperature=1.0)(outputs, batch)
    assert raw.tolist() == pytest.approx([nll([2.4, 0, 12.6, 6], 0), nll([1.8, 15, 16.8, 0], 2)], abs=1e-4)


def test_reranker_loss_reads_the_scores() -> None:
    assert reranker_loss({"scores": torch.zeros(3, 4)}, {}).tolist() == pytest.approx([math.log(4)] * 3)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(UserError, match="--temperature"):
        embedder_loss(temperature=0.0)
