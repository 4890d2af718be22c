"""Numbering the distinct items of a stream, and cutting them into pieces when it passes again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import UserError
from finerank.data.distinct import DIGEST_BYTES, Distinct, Unchanged, both, key_of


def number(items: list[str]) -> Distinct:
    return Distinct(bytearray(b"".join(map(key_of, items))))


def test_numbers_by_hand() -> None:
    distinct = number(["b", "a", "b", "c", "a", "a"])
    assert distinct.places.tolist() == [0, 1, 0, 2, 1, 1]
    assert (distinct.count, len(distinct)) == (3, 6)
    assert distinct.sizes(2) == [2, 1]
    assert list(distinct.pieces("babcaa", 2, {0, 1})) == [(0, ["b", "a"]), (1, ["c"])]
    assert list(distinct.pieces("babcaa", 2, {1})) == [(1, ["c"])]
    assert list(distinct.pieces("not read", 2, set())) == []


@given(st.lists(st.sampled_from([str(each) for each in range(12)]), min_size=1), st.integers(1, 7))
def test_the_same_as_a_dict(items: list[str], size: int) -> None:
    order = {item: place for place, item in enumerate(dict.fromkeys(items))}
    distinct = number(items)
    assert distinct.places.tolist() == [order[item] for item in items]
    found = dict(distinct.pieces(items, size, range(len(items))))
    assert [item for index in sorted(found) for item in found[index]] == list(order)
    assert [len(found[index]) for index in sorted(found)] == distinct.sizes(size)


def test_where_one_text_ends_counts() -> None:
    keys = {key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("abc", ""), key_of("", "abc"), key_of()}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {DIGEST_BYTES}
    assert len(key_of("\ud800")) == DIGEST_BYTES  # half a surrogate pair


@pytest.mark.parametrize("again", ["babca", "babcaab", ""])
def test_a_stream_of_another_length_is_refused(again: str) -> None:
    with pytest.raises(UserError, match="changed while it was being read"):
        list(number(list("babcaa")).pieces(again, 2, {0, 1}))
    with pytest.raises(UserError, match="changed"):
        list(both(again, "babcaa"))


def test_memory_of_the_sort_is_bounded() -> None:
    import tracemalloc

    count = 200_000
    digests = bytearray(random.Random(0).randbytes(DIGEST_BYTES * count))
    tracemalloc.start()
    distinct = Distinct(digests)
    peak = tracemalloc.get_traced_memory()[1]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert distinct.count == count
    assert peak < 50 * count
    assert kept < 6 * count


def test_a_file_written_to_meanwhile_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    assert list(Unchanged([file]).guard([b"a", b"b"])) == [b"a", b"b"]
    guard = Unchanged(str(file)).guard([b"a", b"b"])
    assert next(guard) == b"a"
    file.write_text("{}\n{}\n")
    with pytest.raises(UserError, match="rows.jsonl: the input changed"):
        list(guard)
