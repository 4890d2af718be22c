"""Groups: the positive first, honest negatives, every passage in turn, the same whoever asks."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.batching.groups import GroupMaker
from finerank.batching.row_pairs import PairLayout
from finerank.batching.row_prompts import embedder_prompts, pair_prompts
from finerank.core.data_sets import DataSet
from finerank.core.errors import DataError, UsageError, UserError
from finerank.core.records import Group, Row
from finerank.data.row_index import index_of
from finerank.data.row_store import lay_out
from finerank.data.text import digest, normal_form
from finerank.data.training_rows import TrainingRows

TEXTS = st.sampled_from([*"abcdefghij", "A", " a ", "B", "ﬁ", "fi"])
ROWS = st.lists(
    st.builds(
        lambda query, positives, negatives: Row(query, tuple(positives), tuple(negatives)),
        st.sampled_from(["q1", "q2", "Q1 ", "q3"]),
        st.lists(TEXTS, min_size=1, max_size=3),
        st.lists(TEXTS, max_size=6),
    ),
    min_size=1,
    max_size=6,
)


def row(query: str, positives: str, negatives: str = "", **scores: tuple[float, ...]) -> Row:
    return Row(query, tuple(positives.split()), tuple(negatives.split()), f"rows.jsonl:{query}", **scores)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, group_size=st.integers(1, 7), epoch=st.integers(0, 9), seed=st.integers(0, 3))
def test_a_group_has_one_positive_first_and_no_known_positive_after(
    rows: list[Row], group_size: int, epoch: int, seed: int
) -> None:
    try:
        maker = GroupMaker(rows, group_size, seed)
    except DataError:
        return
    for index, given_row in enumerate(rows):
        group = maker.group(epoch, index)
        same_query = [other for other in rows if normal_form(other.query) == normal_form(given_row.query)]
        positives = {normal_form(text) for other in same_query for text in other.positives}
        assert len(group.passages) == group_size
        assert group.passages[0] in given_row.positives
        assert not positives & {normal_form(text) for text in group.passages[1:]}
        assert group.known_positives == {text for other in same_query for text in other.positives}


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, group_size=st.integers(1, 7), epoch=st.integers(0, 5))
def test_counts_are_what_the_groups_show(rows: list[Row], group_size: int, epoch: int) -> None:
    try:
        maker = GroupMaker(rows, group_size, 0)
    except DataError:
        return
    own = random = repeated = 0
    for index, given_row in enumerate(rows):
        negatives = [normal_form(text) for text in maker.group(epoch, index).passages[1:]]
        labelled = {normal_form(text) for text in given_row.negatives}
        own += sum(1 for text in set(negatives) if text in labelled)
        random += sum(1 for text in set(negatives) if text not in labelled)
        repeated += len(negatives) - len(set(negatives))
    counts = maker.counts()
    assert (counts.own, counts.random, counts.repeated) == (own, random, repeated)
    assert counts.own + counts.random + counts.repeated == len(rows) * (group_size - 1)


def test_each_negative_has_its_turn_before_any_comes_again() -> None:
    maker = GroupMaker([row("q", "p", "a b c d e f")], 4, seed=1)
    first, second = (set(maker.group(epoch, 0).passages[1:]) for epoch in (0, 1))
    assert first | second == set("abcdef")
    assert {frozenset(maker.group(epoch, 0).passages[1:]) for epoch in range(2, 12)} != {
        frozenset(first), frozenset(second),
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 12), group_size=st.integers(2, 9), seed=st.integers(0, 3))
def test_the_turns_hold_where_the_group_does_not_divide_the_negatives(count: int, group_size: int, seed: int) -> None:
    negatives = [f"n{place}" for place in range(count)]
    maker = GroupMaker([row("q", "p", " ".join(negatives))], group_size, seed)
    size = min(group_size - 1, count)
    dealt = [maker.group(epoch, 0).passages[1 : 1 + size] for epoch in range(3 * count)]
    assert all(len(set(hand)) == size for hand in dealt)
    in_turn = [text for hand in dealt for text in hand]
    for start in range(0, len(in_turn) - count + 1, count):
        assert set(in_turn[start : start + count]) == set(negatives)


def test_each_positive_has_its_turn() -> None:
    maker = GroupMaker([row("q", "p1 p2 p3", "a")], 2, seed=5)
    assert {maker.group(epoch, 0).passages[0] for epoch in range(3)} == {"p1", "p2", "p3"}


def test_teacher_scores_follow_their_passages() -> None:
    scored = row("q", "p1 p2", "a b c", pos_scores=(10.0, 20.0), neg_scores=(1.0, 2.0, 3.0))
    maker = GroupMaker([scored], 3, seed=0)
    score_of = dict(zip(["p1", "p2", "a", "b", "c"], [10.0, 20.0, 1.0, 2.0, 3.0]))
    for epoch in range(6):
        group = maker.group(epoch, 0)
        assert group.teacher_scores == tuple(score_of[text] for text in group.passages)


def test_short_rows_take_their_own_then_random_ones_then_repeats() -> None:
    rows = [row("q1", "p1", "a"), row("q2", "p2", "b c")]
    maker = GroupMaker(rows, 7, seed=0)
    group = maker.group(0, 0)
    assert group.passages[:2] == ("p1", "a")
    assert set(group.passages[2:5]) == {"p2", "b", "c"}
    assert set(group.passages[5:]) <= {"a", "p2", "b", "c"}
    counts = maker.counts()
    assert (counts.short_rows, counts.own, counts.random, counts.repeated) == (2, 3, 5, 4)


def test_no_negatives_at_all_gives_random_passages() -> None:
    rows = [row(f"q{index}", f"p{index}") for index in range(10)]
    maker = GroupMaker(rows, 4, seed=0)
    group = maker.group(0, 3)
    assert group.passages[0] == "p3"
    assert len(set(group.passages)) == 4
    assert maker.group(1, 3).passages != group.passages


def test_a_labelled_negative_that_is_a_positive_is_refused_and_counted() -> None:
    rows = [row("q", "p", "P a A"), row("Q", "x", "b c")]
    maker = GroupMaker(rows, 3, seed=0)
    assert maker.counts().refused == 2
    for epoch in range(8):
        assert {"P", "x"}.isdisjoint(maker.group(epoch, 0).passages[1:])


def test_nothing_can_serve_as_a_negative() -> None:
    with pytest.raises(DataError, match="rows.jsonl:q: the row has no negative"):
        GroupMaker([row("q", "p")], 2, seed=0)
    assert GroupMaker([row("q", "p")], 1, seed=0).group(0, 0).passages == ("p",)


def test_one_row_with_one_negative_repeats_it() -> None:
    assert GroupMaker([row("q", "p", "n")], 4, seed=0).group(0, 0).passages == ("p", "n", "n", "n")


def test_group_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--train_group_size"):
        GroupMaker([row("q", "p")], 0, seed=0)


def test_random_passages_come_from_the_rows_own_data_set_while_it_has_any() -> None:
    one = [row(f"a{at}", f"pa{at}") for at in range(4)]
    two = [row(f"b{at}", f"pb{at}") for at in range(40)]
    sets = [DataSet("one", 0, 4), DataSet("two", 4, 44)]
    maker = GroupMaker(TrainingRows([*one, *two], sets, index_of([*one, *two])), 4, seed=0)
    assert {text for epoch in range(5) for text in maker.group(epoch, 1).passages[1:]} == {"pa0", "pa2", "pa3"}
    wider = GroupMaker(TrainingRows([*one, *two], sets, index_of([*one, *two])), 6, seed=0).group(0, 1).passages[1:]
    assert {"pa0", "pa2", "pa3"} < set(wider)
    assert len(set(wider)) == 5


def test_positives_cut_in_three_and_put_together_in_another_order() -> None:
    long = "".join(chr(ord("a") + at % 26) for at in range(301))
    rows = [Row(f"q{at}", (long,), ("n" * 200,)) for at in range(200)] + [Row("short", ("x" * 100,), ("n",))]
    maker = GroupMaker(rows, 2, seed=0, shuffle_ratio=0.3)
    found = [maker.group(0, at).passages[0] for at in range(200)]
    cut = [text for text in found if text != long and len(text) == 303]
    assert 40 <= len(cut) <= 70  # a sixth of the shuffled ones keep their order, but not their spaces
    assert all(sorted(text.split(" ")) == sorted([long[:101], long[101:202], long[202:]]) for text in cut)
    assert len(set(cut)) > 3
    assert {maker.group(epoch, 200).passages[0] for epoch in range(9)} == {"x" * 100}
    assert maker.group(0, 3).passages[1] == "n" * 200
    assert maker.group(0, 3).known_positives == {long}
    assert [maker.group(0, at).passages[0] for at in range(200)] == found
    assert {GroupMaker(rows, 2, seed=0).group(0, at).passages[0] for at in range(200)} == {long}


def test_what_a_row_has_put_before_its_texts() -> None:
    def made(keys: dict[str, Any], template: str = "{}{}") -> Group:
        rows = [Row("q", ("p",), ("n",), extra=keys)]
        return GroupMaker(rows, 2, 0, prompts=partial(embedder_prompts, template=template)).group(0, 0)

    assert (made({}).query_prompt, made({"prompt": None}).query_prompt) == (None, None)
    assert made({"prompt": "find: "}).query_prompt == "find: "
    assert made({"prompt": ""}).query_prompt == ""
    assert made({"prompt": "Do it."}, "Instruct: {}\\nQuery: {}").query_prompt == "Instruct: Do it.\nQuery: "
    assert [made({"type": name}).alike for name in ("symmetric_sts", "symmetric_clustering", "symmetric_class")] == [
        True, True, False,
    ]  # fmt: skip
    with pytest.raises(UserError, match="needs two"):
        made({"prompt": "x"}, "{}")


def test_a_pair_is_read_as_the_teacher_reads_it() -> None:
    own = Row("q", ("p",), ("n",), extra={"query_prompt": "Q: ", "passage_prompt": "P: "})
    bare = Row("q2", ("p",), ("n",), extra={"prompt": None})
    for layout in (PairLayout(), PairLayout("A: ", passage_instruction="B: ", passage_format="{}-{}")):
        maker = GroupMaker([own, bare], 2, 0, prompts=partial(pair_prompts, layout=layout))
        for index, given_row in enumerate((own, bare)):
            group = maker.group(0, index)
            before, between = group.query_prompt or "", group.passage_prompt or ""
            pairs = [(before + group.query, between + text) for text in group.passages]
            assert pairs == list(layout.pairs(given_row))
            assert (group.query_prompt is None) == (layout.query_instruction is None)


def test_groups_from_disk_are_those_from_memory(tmp_path: Path) -> None:
    rows = [
        Row(f"q{at // 3}", (f"p{at}",) * (1 + at % 2), tuple(f"n{n}" for n in range(at % 5)), f"f:{at}",
            extra={"type": "only_1neg"} if at % 4 == 0 else {})
        for at in range(60)
    ]  # fmt: skip
    stored, _ = lay_out(((0, each) for each in rows), 1, lambda: digest(str(tmp_path)), most=0)
    made = [GroupMaker(each, 4, 3, typed=True, shuffle_ratio=0.5) for each in (rows, stored)]
    made.append(pickle.loads(pickle.dumps(made[1])))
    assert not isinstance(stored, list)
    for epoch in range(3):
        first, *others = [[maker.group(epoch, at) for at in range(60)] for maker in made]
        assert all(other == first for other in others)
    assert made[0].counts() == made[1].counts() == made[2].counts()
    orders = [[list(each.order(0, 1)) for each in maker.strata()] for maker in made]
    assert orders[0] == orders[1] == orders[2]
