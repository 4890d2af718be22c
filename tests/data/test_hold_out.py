"""Queries held out: by hand, whole clusters, the same draw each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import UserError
from finerank.core.records import Row
from finerank.data.hold_out import split_rows


def row(query: str, *positives: str) -> Row:
    return Row(query, positives or (f"answer to {query}",), ("noise",))


def test_thirty_percent_of_the_queries_and_the_same_again() -> None:
    rows = [row(f"q{index}") for index in range(10)]
    split = split_rows(rows, 0.3, 42)
    assert (len(split.train), len(split.held_out), split.queries, split.whole) == (7, 3, 3, True)
    assert sorted([*split.train, *split.held_out]) == list(range(10))
    assert split_rows(rows, 0.3, 42) == split
    assert split_rows(rows, 0.3, 43).held_out != split.held_out


def test_rows_of_one_query_stay_together_however_it_is_written() -> None:
    rows = [row(name, f"answer {place}") for place, name in enumerate(["a", "A ", "b", "c", "ａ", "B"])]
    for seed in range(20):
        held = set(split_rows(rows, 0.4, seed).held_out)
        for same in ({0, 1, 4}, {2, 5}):
            assert same <= held or not same & held


def test_rows_with_a_common_positive_stay_together_also_by_way_of_others() -> None:
    rows = [row("a", "x"), row("b", "x", "y"), row("c", "Y"), *(row(f"q{index}") for index in range(9))]
    for seed in range(20):
        split = split_rows(rows, 0.5, seed)
        held = set(split.held_out) & {0, 1, 2}
        assert held in (set(), {0, 1, 2})
        assert split.whole


def test_a_cluster_too_large_is_parted_by_query() -> None:
    rows = [row(f"q{index}", "the one answer") for index in range(10)]
    split = split_rows(rows, 0.3, 42)
    assert (split.queries, split.whole) == (3, False)


def test_a_query_that_is_another_rows_positive_joins_nothing() -> None:
    rows = [row("a", "b"), row("b", "c"), row("c", "d"), row("d", "a")]
    assert split_rows(rows, 0.25, 1).queries == 1
    assert split_rows(rows, 0.25, 1).whole


@pytest.mark.parametrize("count", [1, 3])
def test_a_single_query_cannot_be_held_out(count: int) -> None:
    with pytest.raises(UserError, match="none of 1 distinct queries can be held out"):
        split_rows([row("a", f"x{index}") for index in range(count)], 0.3, 42)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 12), min_size=1, max_size=3)), min_size=2),
    st.floats(0.05, 0.9),
)
def test_something_is_held_out_never_all_and_never_half_a_query(
    drawn: list[tuple[int, list[int]]], share: float
) -> None:
    rows = [row(f"q{query}", *(f"p{positive}" for positive in positives)) for query, positives in drawn]
    if len({query for query, _ in drawn}) < 2:
        return
    split = split_rows(rows, share, 42)
    held, kept = {rows[place].query for place in split.held_out}, {rows[place].query for place in split.train}
    assert held
    assert kept
    assert not held & kept
    if split.whole:
        of = [{text for place in places for text in rows[place].positives} for places in (split.held_out, split.train)]
        assert not of[0] & of[1]
