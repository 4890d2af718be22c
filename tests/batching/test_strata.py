"""Strata: who shares a batch, how often a row comes in an epoch, in which order."""

from __future__ import annotations

from collections import Counter

import pytest

from finerank.batching.groups import GroupMaker
from finerank.batching.strata import Portion, Stratum
from finerank.core.data_sets import DataSet
from finerank.core.records import Row
from finerank.data.row_index import index_of
from finerank.data.training_rows import TrainingRows


def drawn(stratum: Stratum, epoch: int, seed: int = 0) -> list[tuple[int, int]]:
    return stratum.turns(epoch, stratum.order(seed, epoch))


def test_a_whole_weight_brings_each_row_so_often_each_time_in_its_next_turn() -> None:
    stratum = Stratum((Portion(range(10, 14), 2.0),))
    assert len(stratum) == 8
    for epoch in range(3):
        assert sorted(drawn(stratum, epoch)) == [(row, 2 * epoch + copy) for row in range(10, 14) for copy in (0, 1)]


def test_a_fraction_draws_other_rows_in_each_epoch() -> None:
    stratum = Stratum((Portion(range(100), 0.3),))
    epochs = [{row for row, _ in drawn(stratum, epoch)} for epoch in range(40)]
    assert all(len(rows) == 30 for rows in epochs)
    assert epochs[0] != epochs[1]
    assert set().union(*epochs) == set(range(100))
    assert {turn for _, turn in drawn(stratum, 7)} == {7}
    assert drawn(stratum, 7) == drawn(stratum, 7)
    assert drawn(stratum, 7) != drawn(stratum, 7, seed=1)


def test_one_and_a_half() -> None:
    stratum = Stratum((Portion(range(4), 1.5),))
    for epoch in (0, 1):
        counts = Counter(row for row, _ in drawn(stratum, epoch))
        assert sorted(counts.values()) == [1, 1, 2, 2]
        assert len(set(drawn(stratum, epoch))) == len(stratum) == 6
    assert {turn for _, turn in drawn(stratum, 1)} == {2, 3}


@pytest.mark.parametrize(("weight", "count"), [(0.001, 1), (0.5, 1), (1.0, 1), (2.4, 2)])
def test_a_data_set_of_one_row_always_comes(weight: float, count: int) -> None:
    stratum = Stratum((Portion(range(1), weight),))
    assert len(stratum) == len(drawn(stratum, 0)) == count


def test_data_sets_of_two_weights_are_shuffled_together() -> None:
    stratum = Stratum((Portion(range(3), 2.0, 0), Portion(range(3, 13), 0.5, 1)))
    assert len(stratum) == 11
    found = drawn(stratum, 0)
    assert Counter(row for row, _ in found if row < 3) == {0: 2, 1: 2, 2: 2}
    assert len({row for row, _ in found if row >= 3}) == 5
    assert [row < 3 for row, _ in found] != sorted([row < 3 for row, _ in found], reverse=True)


def rows_of(*sets: tuple[str, list[Row], bool]) -> TrainingRows:
    rows, found = list[Row](), list[DataSet]()
    for name, part, in_batch in sets:
        found.append(DataSet(name, len(rows), len(rows) + len(part), 1.0, in_batch))
        rows += part
    return TrainingRows(rows, found, index_of(rows))


def some(name: str, count: int, negatives: int = 3, **extra: object) -> list[Row]:
    return [
        Row(f"{name} {at}", (f"{name} yes {at}",), tuple(f"{name} {at} no {n}" for n in range(negatives)), extra=extra)
        for at in range(count)
    ]


def strata(rows: TrainingRows, **values: bool) -> list[tuple[list[int], int | None]]:
    found = GroupMaker(rows, 4, 0, **values).strata()
    return [([row for part in each.portions for row in part.rows], each.batch_size) for each in found]


def test_plain_data_sets_share_batches_unless_kept_apart() -> None:
    rows = rows_of(("a", some("a", 2), True), ("b", some("b", 3), True))
    assert strata(rows) == [([0, 1, 2, 3, 4], None)]
    assert strata(rows, apart=True) == [([0, 1], None), ([2, 3, 4], None)]


def test_data_sets_without_in_batch_negatives_are_always_apart() -> None:
    rows = rows_of(("a", some("a", 1), True), ("b", some("b", 1), False), ("c", some("c", 1), True),
                   ("d", some("d", 1), False))  # fmt: skip
    assert strata(rows) == [([0, 2], None), ([1], None), ([3], None)]


def test_groups_of_another_size_have_batches_of_their_own() -> None:
    mixed = [*some("a", 2), *some("b", 2, type="only_1neg"), *some("c", 1, negatives=1, type="symmetric_class")]
    rows = rows_of(("mixed", mixed, True), ("one", some("d", 2, type="only_1neg"), True))
    assert strata(rows) == [([0, 1, 2, 3, 4, 5, 6], None)]
    assert strata(rows, typed=True) == [([2, 3, 4, 5, 6], None), ([0, 1], None)]
    assert strata(rows, typed=True, apart=True) == [([2, 3, 4], None), ([0, 1], None), ([5, 6], None)]


def test_rows_say_the_size_of_their_batches() -> None:
    rows = rows_of(("a", some("a", 2, batch_size=7), True), ("b", [*some("b", 1, batch_size=3), *some("c", 1)], True))
    assert strata(rows) == [([0, 1, 2, 3], None)]
    assert strata(rows, apart=True) == [([0, 1], 7), ([2], 3), ([3], None)]


def test_types_decide_the_size_of_a_group() -> None:
    rows = rows_of(
        ("a", [*some("a", 1), *some("b", 1, type="only_1neg"), *some("c", 1, 2, type="symmetric_class"),
               *some("d", 1, 9, type="symmetric_class"), *some("e", 1, 0, type="symmetric_class"),
               *some("f", 1, type="symmetric_sts"), *some("g", 1, type="anything")], True),
    )  # fmt: skip
    maker = GroupMaker(rows, 5, 0, typed=True)
    assert [len(maker.group(0, at).passages) for at in range(7)] == [5, 2, 3, 5, 2, 5, 5]
    assert maker.types() == {"only_1neg": 1, "symmetric_class": 3, "symmetric_sts": 1}
    counts = maker.counts()
    assert counts.own + counts.random + counts.repeated == 4 + 1 + 2 + 4 + 1 + 4 + 4
    untyped = GroupMaker(rows, 5, 0)
    assert {len(untyped.group(0, at).passages) for at in range(7)} == {5}
