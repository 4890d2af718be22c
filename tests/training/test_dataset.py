"""Batches of an epoch: every row in its turn, one stratum a batch, the same global batches in all processes."""

from __future__ import annotations

from collections import Counter

import pytest

from finerank.batching.groups import GroupMaker
from finerank.batching.strata import Portion, Stratum
from finerank.core.records import Group, Row
from finerank.core.seeding import stream
from finerank.training.dataset import Collator, EpochBatches, Place


def walk(batches: EpochBatches, epoch: int = 0) -> list[list[Place]]:
    batches.epoch = epoch
    return list(batches)


def test_rows_of_one_kind_come_in_the_order_of_the_stream() -> None:
    order = list(range(10))
    stream(3, "order", 2).shuffle(order)
    assert walk(EpochBatches(10, 4, 3), 2) == [
        [Place(2, row) for row in order[start : start + 4]] for start in (0, 4, 8)
    ]


STRATA = [
    Stratum((Portion(range(10)),)),
    Stratum((Portion(range(10, 13), 2.0, 1),)),
    Stratum((Portion(range(13, 20), 1.0, 2),), batch_size=3),
    Stratum((Portion(range(20, 21), 1.0, 3),)),
]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_row_comes_and_a_batch_is_of_one_stratum(processes: int, drop_last: bool) -> None:
    all_ranks = [
        EpochBatches(STRATA, 4, 0, drop_last=drop_last, rank=rank, processes=processes) for rank in range(processes)
    ]
    for epoch in range(3):
        walks = [walk(batches, epoch) for batches in all_ranks]
        assert {len(each) for each in walks} == {len(all_ranks[0])}
        whole = [[place for places in batch for place in places if place.counts] for batch in zip(*walks)]
        owners = [{place.index // 10 if place.index < 10 else place.index for place in batch} for batch in whole]
        assert all(
            len({at for at, each in enumerate(STRATA) for place in batch if place.index in each.portions[0].rows}) == 1
            for batch in whole
        )
        assert owners
        counts = Counter(place.index for batch in whole for place in batch)
        assert sum(counts.values()) == all_ranks[0].rows
        if not drop_last:
            assert counts == Counter({row: 2 if 10 <= row < 13 else 1 for row in range(21)})
        assert counts[20] == 1  # a stratum shorter than a batch is never left out
        assert max(len(batch) for batch in whole) <= 4 * processes
        assert all(len(batch) <= 3 * processes for batch in whole if 13 <= batch[0].index < 20)


def test_all_processes_walk_the_same_global_batches() -> None:
    alone = walk(EpochBatches(STRATA, 4, 0), 1)
    halves = [walk(EpochBatches([*STRATA[:2], Stratum(STRATA[2].portions), STRATA[3]], 2, 0, rank=rank, processes=2), 1)
              for rank in (0, 1)]  # fmt: skip
    joined = [[place for part in batch for place in part if place.counts] for batch in zip(*halves)]
    assert sorted(map(str, joined)) != sorted(map(str, alone))  # the third stratum's own size is gone
    small = [batch for batch in alone if not 13 <= batch[0].index < 20]
    assert [batch for batch in joined if not 13 <= batch[0].index < 20] != []
    assert sorted(map(str, small)) == sorted(map(str, (b for b in joined if not 13 <= b[0].index < 20)))


def test_batches_of_several_strata_come_mixed_and_in_another_order_each_epoch() -> None:
    strata = [Stratum((Portion(range(100)),)), Stratum((Portion(range(100, 200), 1.0, 1),))]
    batches = EpochBatches(strata, 10, 0)
    orders = [[batch[0].index // 100 for batch in walk(batches, epoch)] for epoch in (0, 1)]
    assert Counter(orders[0]) == {0: 10, 1: 10}
    assert orders[0] != sorted(orders[0])
    assert orders[0] != orders[1]
    assert walk(batches, 1) == walk(EpochBatches(strata, 10, 0), 1)


def test_rows_after_steps_of_mixed_batches_end_where_the_epoch_ends() -> None:
    batches = EpochBatches(STRATA, 4, 0)
    assert (batches.rows, len(batches)) == (24, 3 + 2 + 3 + 1)
    assert [batches.rows_after(step, 2) for step in (0, 5, 10)] == [0, 24, 48]
    seen = [batches.rows_after(step) for step in range(19)]
    assert seen == sorted(seen)
    assert seen[9] == 24


def test_a_batch_says_that_it_has_no_in_batch_negatives() -> None:
    collate = Collator(lambda groups: {})
    group = Group("q", ("p", "n"), 0)
    assert "in_batch" not in collate([(group, True)])
    assert collate([(Group("q", ("p", "n"), 0, in_batch=False), True)])["in_batch"] is False


def test_a_shuffled_positive_is_still_the_same_passage() -> None:
    """Two queries share a positive: neither's shuffled copy may be the other's negative."""
    shared = " ".join(f"word{number}" for number in range(60))
    rows = [Row(query, (shared,), (f"no answer to {query}",)) for query in ("one", "two")]
    made = GroupMaker(rows, 2, seed=0, shuffle_ratio=1.0)
    groups = [made.group(0, index) for index in range(2)]
    assert all(group.passages[0] != shared for group in groups)
    batch = Collator(lambda items: {})([(group, True) for group in groups])
    assert batch["passage_ids"][0] == batch["passage_ids"][2] == batch["positive_ids"][0] == batch["positive_ids"][1]
