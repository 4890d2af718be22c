"""The held-out loss: by hand, the same each time, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyEncoder, TinyScorer, make_rows

from finerank.batching.groups import GroupMaker
from finerank.training.held_out_loss import held_out_loss
from finerank.training.objectives import embedder_objective, reranker_objective


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_it_is_the_mean_of_the_groups_losses(batch: int) -> None:
    model = TinyScorer(dropout=0.5)
    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    model.module.eval()
    groups = GroupMaker(make_rows(7), 3, seed=0)
    measure = held_out_loss(model, groups, reranker_objective(), batch, seed=0)  # type: ignore[arg-type]
    expected = []
    for index in range(7):
        scores = model.run(model.collate([groups.group(0, index)]))["scores"]
        expected.append(-torch.log_softmax(scores, dim=1)[0, 0].item())
    with torch.no_grad():
        values = measure()
        assert measure() == values
    assert sorted(values) == pytest.approx(sorted(expected), abs=1e-6)


def test_in_batch_negatives_are_those_of_a_fixed_batch() -> None:
    model = TinyEncoder(dropout=0.0)
    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    groups = GroupMaker(make_rows(6), 2, seed=0)
    loss = embedder_objective(temperature=0.1)
    with torch.no_grad():
        alone, together = (held_out_loss(model, groups, loss, batch, seed=0)() for batch in (1, 6))  # type: ignore[arg-type]
        whole = loss(
            model.run(model.collate([groups.group(0, index) for index in range(6)])), _ids(groups, range(6))
        ).tolist()
    assert sorted(together) == pytest.approx(sorted(whole), abs=1e-6)
    assert sum(together) > sum(alone)


def _ids(groups: GroupMaker, places: range) -> dict[str, object]:
    from finerank.training.dataset import Collator

    return Collator(lambda items: {"size": len(items)})([(groups.group(0, index), True) for index in places])


def test_autocast_does_not_reach_the_loss() -> None:
    """Cosines over a small temperature: in bfloat16 a logit would be off by more than a plateau's threshold."""
    model = TinyEncoder(dropout=0.0)
    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    groups = GroupMaker(make_rows(6), 2, seed=0)
    vectors = torch.nn.functional.normalize(torch.randn(18, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    model.module = lambda micro: vectors  # type: ignore[assignment]
    measure = held_out_loss(model, groups, embedder_objective(temperature=0.02), 6, seed=0)  # type: ignore[arg-type]
    plain = measure()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure() == plain
