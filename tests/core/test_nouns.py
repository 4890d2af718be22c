"""Rows, runs, errors, streams, outcomes: the nouns."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import DataError, Problem, UsageError, UserError, did_you_mean
from finerank.core.outcomes import Outcome
from finerank.core.records import Row, is_number, kind, parse_row
from finerank.core.runs import Candidate, ranked, top
from finerank.core.seeding import DEFAULT_SEED, stream, stream_seed


def codes(line: dict[str, Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        parse_row(line, "f:1")
    assert all(problem.where == "f:1" for problem in caught.value.problems)
    return [problem.code for problem in caught.value.problems]


def test_a_row_and_back() -> None:
    line = {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1], "neg_scores": [0.5, -2], "id": 3}
    row = parse_row(line, "f:7")
    expected = Row("q", ("p",), ("n", "m"), "f:7", (1.0,), (0.5, -2.0), {"id": 3})
    assert row == expected
    assert row.to_mapping() == line
    assert list(row.to_mapping())[:3] == ["query", "pos", "neg"]
    assert parse_row({"query": "q", "pos": ["p"]}, "").to_mapping() == {"query": "q", "pos": ["p"], "neg": []}


@pytest.mark.parametrize("query", ["query", "question", "anchor"])
@pytest.mark.parametrize(("pos", "neg"), [("pos", "neg"), ("positive", "negative"), ("positives", "negatives")])
def test_foreign_keys(query: str, pos: str, neg: str) -> None:
    row = parse_row({query: "q", pos: ["p"], neg: ["n"], "other": 1}, "")
    assert (row.query, row.positives, row.negatives, row.extra) == ("q", ("p",), ("n",), {"other": 1})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({}, ["missing-query", "missing-pos"]),
        ({"query": None, "pos": {}}, ["bad-query", "bad-pos"]),
        ({"query": "\t", "pos": [" ", 3, "a\0"]}, ["blank-query", "blank-pos", "bad-pos", "nul-pos"]),
        ({"query": "q", "pos": ["p"], "neg": 3}, ["bad-neg"]),
        ({"query": "q", "pos": ["p"], "neg": [""]}, ["blank-neg"]),
        ({"query": "q", "pos": ["p"], "pos_scores": "1"}, ["bad-pos_scores"]),
        ({"query": "q", "pos": ["p"], "pos_scores": [float("nan")]}, ["bad-pos_scores"]),
        ({"query": "q", "pos": ["p"], "neg_scores": [1.0]}, ["length-neg_scores"]),
    ],
)
def test_all_problems_of_a_line_are_found(line: dict[str, Any], expected: list[str]) -> None:
    assert codes(line) == expected


def test_null_neg_and_null_scores_are_absent() -> None:
    row = parse_row({"query": "q", "pos": ["p"], "neg": None, "pos_scores": None}, "")
    assert (row.negatives, row.pos_scores) == ((), None)


def test_the_message_names_the_keys_that_are_there() -> None:
    with pytest.raises(DataError, match='its keys: "a", "b"'):
        parse_row({"a": 1, "b": 2}, "f:1")
    with pytest.raises(DataError, match="it is empty"):
        parse_row({}, "f:1")


def test_a_huge_bad_score_does_not_flood_the_message() -> None:
    with pytest.raises(DataError) as caught:
        parse_row({"query": "q", "pos": ["p"], "pos_scores": ["x" * 10_000]}, "f:1")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, "null"), ("", "a string"), (True, "a boolean"), (1, "a number"), (1.5, "a number"), ([], "a list"),
     ({}, "an object"), (b"", "bytes")],
)  # fmt: skip
def test_kinds_are_named_as_their_writer_would(value: object, name: str) -> None:
    assert kind(value) == name


def test_numbers() -> None:
    assert all(map(is_number, (0, -1, 2.5, 10**30)))
    assert not any(map(is_number, (True, None, "1", float("inf"), float("nan"))))


SCALAR = st.none() | st.text() | st.floats() | st.integers()
KEY = st.sampled_from(["query", "pos", "neg", "pos_scores", "neg_scores", "x"])


@given(st.dictionaries(KEY, SCALAR | st.lists(SCALAR)))
def test_any_object_is_a_row_or_a_data_error(line: dict[str, Any]) -> None:
    try:
        row = parse_row(line, "f:1")
    except DataError:
        return
    assert row.query.strip()
    assert row.positives
    assert all(text.strip() for text in (*row.positives, *row.negatives))


def test_ranking_breaks_ties_by_passage_id_descending() -> None:
    scores = {"a": 1.0, "c": 1.0, "b": 2.0, "d": -1.0}
    assert ranked(scores) == [Candidate("b", 2.0), Candidate("c", 1.0), Candidate("a", 1.0), Candidate("d", -1.0)]
    assert list(top(scores, 2).items()) == [("b", 2.0), ("c", 1.0)]
    assert top(scores, 0) == {}
    assert ranked({}) == []


@given(st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_ranking_does_not_depend_on_the_order_of_arrival(scores: dict[str, float]) -> None:
    items = list(scores.items())
    random.Random(0).shuffle(items)
    assert ranked(scores) == ranked(dict(items))


def test_streams_are_named_and_independent() -> None:
    assert DEFAULT_SEED == 42
    assert stream_seed(42, "groups", 0, 17) == stream_seed(42, "groups", 0, 17)
    seeds = {stream_seed(42, "a", 1), stream_seed(42, "a", "1"), stream_seed(42, "a1"), stream_seed(42, "a", 1, 1),
             stream_seed(43, "a", 1), stream_seed(42, "a", 11), stream_seed(42)}  # fmt: skip
    assert len(seeds) == 7
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_streams_leave_the_global_generator_alone() -> None:
    state = random.getstate()
    assert stream(1, "x").random() == stream(1, "x").random()
    assert random.getstate() == state


def test_a_stream_is_the_same_on_every_machine() -> None:
    assert stream_seed(42, "groups", 0, 17) == 1342988936022840632
    assert stream(42, "groups", 0, 17).randrange(10**6) == 319826


def test_errors_render_as_place_sentence_hint() -> None:
    error = UserError("3 negatives but 2 scores", where="a.jsonl:3", hint="finerank score")
    assert str(error) == "a.jsonl:3: 3 negatives but 2 scores\nhint: finerank score"
    assert str(UserError("x")) == "x"
    assert (UserError("x").exit_code, UsageError("x").exit_code) == (1, 2)
    assert isinstance(DataError([Problem("a", "b", "c")]), UserError)


@pytest.mark.parametrize(("count", "said"), [(1, None), (10, None), (11, "and 1 more"), (2011, "and 2,001 more")])
def test_ten_problems_are_shown(count: int, said: str | None) -> None:
    error = DataError([Problem(f"f:{number}", "code", f"bad {number}") for number in range(count)], hint="mend")
    lines = str(error).splitlines()
    assert lines[0] == "f:0: bad 0 [code]"
    assert lines[-1] == "hint: mend"
    assert sum("bad" in line for line in lines) == min(count, 10)
    assert (said is None) == ("more" not in str(error))
    assert said is None or said in str(error)
    assert len(error.problems) == count


def test_near_misses() -> None:
    assert did_you_mean("temprature", ["temperature", "top_k"]) == '; did you mean "temperature"?'
    assert did_you_mean("zzz", ["temperature"]) == ""
    assert did_you_mean("trian", ["mine", "train embedder"]) == '; did you mean "train embedder"?'
    assert did_you_mean("modle", ["margin", "model_name_or_path"]) == '; did you mean "model_name_or_path"?'


def test_an_outcome_is_a_success_unless_it_says_otherwise() -> None:
    assert (Outcome("x").exit_code, Outcome("x").data) == (0, {})
