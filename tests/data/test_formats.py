"""Other tools' records: told by their keys, read as rows, refused where they could mean two things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.core.errors import DataError
from finerank.core.records import Row, parse_row
from finerank.data import grouping
from finerank.data.formats import format_of, named_passages, parse_record
from finerank.data.grouping import Grouping
from finerank.data.layouts import Layout, passage_ids, query_id
from finerank.data.sources import read_rows, scan_rows
from finerank.data.text import digest

PASSAGES = {"positive_passages": [{"docid": 1, "title": "T", "text": "p"}, {"docid": "b", "title": "", "text": "r"}]}

# the record, its format, its row as it is written
KNOWN: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"query": "q", "pos": ["p"]}, "rows", {"query": "q", "pos": ["p"], "neg": []}),
    ({"question": "q", "positives": ["p"], "negatives": ["n"]}, "rows", {"query": "q", "pos": ["p"], "neg": ["n"]}),
    ({"query": "q", "positive": ["p", "r"]}, "rows", {"query": "q", "pos": ["p", "r"], "neg": []}),
    (
        {"query": "q", "pos": ["p"], "answer": "a", "label": 1},
        "rows",
        {"query": "q", "pos": ["p"], "neg": [], "answer": "a", "label": 1},
    ),
    ({"query": "q", "positive": ["p"], "answer": "a", "score": 3}, "rows", {
        "query": "q", "pos": ["p"], "neg": [], "answer": "a", "score": 3,
    }),
    ({"anchor": "q", "positive": "p"}, "pair", {"query": "q", "pos": ["p"], "neg": []}),
    ({"anchor": "q", "positive": "p", "negative": "n"}, "triplet", {"query": "q", "pos": ["p"], "neg": ["n"]}),
    ({"query": "q", "positive": "p", "negative": ["n", "m"]}, "triplet", {
        "query": "q", "pos": ["p"], "neg": ["n", "m"],
    }),
    ({"anchor": "q", "positive": "p", "negative": "n", "scores": [2, -1]}, "triplet", {
        "query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [2.0], "neg_scores": [-1.0],
    }),
    ({"anchor": "q", "positive": "p", "negative": "n", "score": 3.0}, "triplet", {
        "query": "q", "pos": ["p"], "neg": ["n"], "score": 3.0,
    }),
    ({"anchor": "q", "positive": "p", "negative_2": "m", "negative_1": "n", "negative_10": "z"}, "n-tuple", {
        "query": "q", "pos": ["p"], "neg": ["n", "m", "z"],
    }),
    (
        {
            "anchor": "q", "positive": "p", "negative_1": "n", "negative_2": None, "negative_3": "m",
            "scores": [4, 3, 0, 1],
        },
        "n-tuple",
        {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [4.0], "neg_scores": [3.0, 1.0]},
    ),
    ({"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [1, 3]}, "n-tuple", {
        "query": "q", "pos": ["p"], "neg": ["n", "m"], "scores": [1, 3],
    }),
    ({"query": "q", "docs": ["a", "b", "c"], "labels": [0, 1, 0]}, "labeled-list", {
        "query": "q", "pos": ["b"], "neg": ["a", "c"],
    }),
    (
        {"query": "q", "positive": ["a", "b"], "labels": [True, False], "scores": [9, 8], "id": "7"},
        "labeled-list",
        {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [9.0], "neg_scores": [8.0], "id": "7"},
    ),
    ({"query": "q", "passages": ["a", "b"], "label": [0, 2]}, "labeled-list", {
        "query": "q", "pos": ["b"], "neg": ["a"],
    }),
    ({"query": "q", "query_id": 3, "answers": ["x"], **PASSAGES}, "tevatron", {
        "query": "q", "pos": ["T p", "r"], "neg": [], "answers": ["x"], "id": 3, "pos_id": [1, "b"],
    }),
    (
        {
            "query_text": "q", "query_id": "3", "positive_passages": [{"text": "p", "score": 2}],
            "negative_passages": [{"text": "n", "score": 1}, {"text": "m", "score": 0.5}],
        },
        "tevatron",
        {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [2.0], "neg_scores": [1.0, 0.5], "id": "3"},
    ),
    (
        {"query": "q", "positive_passages": {"docid": ["1"], "text": ["p"]}, "negative_passages": None},
        "tevatron",
        {"query": "q", "pos": ["p"], "neg": [], "pos_id": ["1"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "form", "line"), KNOWN)
def test_a_record_is_told_by_its_keys(record: dict[str, Any], form: str, line: dict[str, Any]) -> None:
    assert format_of(record) == form
    found, row = parse_record(record, "f:7")
    assert (found, row.where, row.to_mapping()) == (form, "f:7", line)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"text": "t"}, "a-pool"),
        ({"_id": "1", "title": "", "text": "t"}, "a-pool"),
        ({"query": "q", "knowledges": ["a"]}, "candidates"),
        ({"query": "q", "documents": ["a"]}, "candidates"),
        ({"query": "q", "answer": "a"}, "missing-pos"),
        ({"anchor": "q", "positive": "p", "score": 0.2}, "no-label"),
        ({"query": "q", "passage": "p", "score": 0.2}, "no-label"),
        ({"query": "q", "positive": ["p", "n"], "scores": [0.9, 0.2]}, "no-label"),
        ({"query": "q", "docs": ["p", "n"], "scores": [0.9, 0.2]}, "no-label"),
        ({"query": "q", "docs": ["p", "n"], "labels": [1]}, "length-labels"),
        ({"query": "q", "docs": ["p", "n"], "labels": [1, 0], "scores": [1]}, "length-scores"),
        ({"query": "q", "docs": ["p", "n"], "labels": [1, "x"]}, "bad-label"),
        ({"query": "q", "docs": ["p", "n"], "labels": [0, 0]}, "missing-pos"),
        ({"query": "q", "docs": [], "labels": []}, "empty-pos"),
        ({"query": "q", "docs": ["p", 3], "labels": [1, 0]}, "bad-neg"),
        ({"query": "q", "passage": "p", "label": "entailment"}, "bad-label"),
        ({"query": "q", "passage": " ", "label": 1}, "blank-pos"),
        ({"query": "q", "passage": "p", "label": 1, "score": "high"}, "bad-pos_scores"),
        ({"anchor": 1, "positive": "p"}, "bad-query"),
        ({"positive": "p", "negative": "n"}, "missing-query"),
        ({"anchor": "q", "positive": "", "negative": "n"}, "blank-pos"),
        ({"anchor": "q", "positive": "p", "negative": 3}, "bad-neg"),
        ({"anchor": "q", "positive": "p", "negative": "a\x00b"}, "nul-neg"),
        ({"anchor": "q", "positive": "p", "negative": "n", "scores": [1.0, None]}, "bad-neg_scores"),
        ({"query": "q", "positive_passages": "p"}, "bad-pos"),
        ({"query": "q", "positive_passages": ["p"]}, "bad-pos"),
        ({"query": "q", "positive_passages": [{"docid": "1"}]}, "bad-pos"),
        ({"query": "q", "positive_passages": []}, "empty-pos"),
        ({"query": "q", "positive_passages": [{"text": "p"}], "negative_passages": [{"text": 3}]}, "bad-neg"),
        ({"positive_passages": [{"text": "p"}]}, "missing-query"),
        ({"query_text": "q", "query_id": 1, "positive_document_ids": ["1"]}, "ids-without-texts"),
    ],
)
def test_what_is_no_row_is_refused_with_its_place(record: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_record(record, "f:7")
    assert {problem.where for problem in caught.value.problems} == {"f:7"}
    assert code in {problem.code for problem in caught.value.problems}


def test_a_format_that_is_named_wins_over_the_keys() -> None:
    line = {"query": "q", "pos": "p", "neg": "n", "pos_id": "1", "neg_id": 2}
    _, row = parse_record(line, "f:1", "triplet")
    assert row.to_mapping() == {"query": "q", "pos": ["p"], "neg": ["n"], "pos_id": ["1"], "neg_id": [2]}
    _, row = parse_record({"query": "q", "answer": "a"}, "f:1", "pair")
    assert row.positives == ("a",)
    _, row = parse_record({"anchor": "q", "positive": "p", "score": 0.25}, "f:1", "pair")
    assert row.pos_scores == (0.25,)
    with pytest.raises(DataError, match="must be a list of strings, got a string"):
        parse_record(line, "f:1")


def test_labels_are_held_against_a_grade() -> None:
    record = {"query": "q", "docs": ["a", "b", "c"], "labels": [3, 1, 0]}
    _, row = parse_record(record, "f:1", min_grade=2)
    assert (row.positives, row.negatives) == (("a",), ("b", "c"))
    pair = {"query": "q", "passage": "a", "label": 1, "score": 5, "pos_id": "x"}
    _, row = parse_record(pair, "f:1", min_grade=2)
    assert (row.positives, row.negatives, row.neg_scores, dict(row.extra)) == ((), ("a",), (5.0,), {"neg_id": ["x"]})


def test_passages_named_by_id_take_their_texts_from_a_corpus() -> None:
    record = {"query_id": 1, "query_text": "q", "positive_document_ids": ["a"], "negative_document_ids": [7]}
    assert set(named_passages(record)) == {"a", "7"}
    _, row = parse_record(record, "f:1", texts={"a": "p", "7": "n"})
    assert row.to_mapping() == {
        "query": "q", "pos": ["p"], "neg": ["n"], "id": 1, "pos_id": ["a"], "neg_id": ["7"],
    }  # fmt: skip
    with pytest.raises(DataError, match='holds no passage "7"'):
        parse_record(record, "f:1", texts={"a": "p"})


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def test_every_verb_reads_foreign_records_with_their_places(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "mixed.jsonl",
        {"anchor": "a", "positive": "p", "negative": "n"},
        {"query": "b", "pos": ["p"]},
        {"query": "c", **PASSAGES},
    )
    rows = read_rows([path])
    assert [row.query for row in rows] == ["a", "b", "c"]
    assert [row.where for row in rows] == [f"{path}:{number}" for number in (1, 2, 3)]
    lines(path, {"anchor": "a", "positive": "p"}, {"anchor": "a", "positive": ""}, {"anchor": "a", "positive": "p"})
    with pytest.raises(DataError) as caught:
        read_rows([path])
    assert [(problem.where, problem.code) for problem in caught.value.problems] == [(f"{path}:2", "blank-pos")]


KEYS = st.sampled_from(
    ["query", "anchor", "pos", "neg", "positive", "negative", "negative_1", "negative_2", "docs", "passage", "answer",
     "label", "labels", "score", "scores", "positive_passages", "negative_passages", "positive_document_ids", "pos_id",
     "negative_document_ids", "query_id", "title", "docid", "text"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", " ", "a", "b"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
FORMS = ["auto", "rows", "pair", "triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron"]


@settings(max_examples=150, deadline=None)
@given(record=st.dictionaries(KEYS, VALUES, max_size=5), form=st.sampled_from(FORMS))
def test_any_object_is_a_row_or_a_problem(record: dict[str, Any], form: str) -> None:
    told = None
    try:
        found, row = parse_record(record, "f:1", form, texts={"a": "x"})
    except DataError as error:
        told = error.problems
    if told is not None:
        assert told
        assert all(problem.where == "f:1" and len(problem.message) < 400 for problem in told)
        return
    assert row.query.strip()
    assert row.positives or (found == "labeled-pair" and row.negatives)
    assert all(text.strip() for text in (*row.positives, *row.negatives))
    with Grouping() as gathered:
        gathered.add(row)
        assert len(list(gathered.rows())) == 1


TRIPLET = b'{"anchor": "q", "positive": "p", "negative": "n"}'


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (b"\xef\xbb\xbf" + TRIPLET + b"\r\n\r\n" + TRIPLET + b"\r\n", 2),
        ('{"anchor": "a\u2028b\u0085c", "positive": "p\u2029"}'.encode(), 1),
        (b"[" + TRIPLET + b",\n" + TRIPLET + b"]", 2),
    ],
)
def test_odd_files_of_foreign_records_are_read(tmp_path: Path, content: bytes, count: int) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert len(read_rows([path])) == count


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"anchor": "q", "positive": "p", "negative": "n", "scores": [NaN, 1]}', "not-finite"),
        (b'{"anchor": "q", "positive": "p", "positive": "r"}', "duplicate-key"),
        (b'{"query": "q", "docs": ["a"], "labels": [1e999]}', "not-finite"),
        (b'{"query": "q", "passage": "caf\xe9", "label": 1}', "not-utf8"),
    ],
)
def test_bad_files_of_foreign_records_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(TRIPLET + b"\n" + content)
    with pytest.raises(DataError) as caught:
        read_rows([path])
    assert [(problem.where, problem.code) for problem in caught.value.problems] == [(f"{path}:2", code)]


def test_labeled_pairs_are_gathered_by_query(tmp_path: Path) -> None:
    def pair(query: str, passage: str, label: float, **more: Any) -> dict[str, Any]:
        return {"query": query, "passage": passage, "label": label, **more}

    path = lines(
        tmp_path / "pairs.jsonl",
        pair("a", "n1", 0), pair("b", "p", 1), pair("a", "p1", 1), pair("c", "n", 0), pair("a", "n2", 0),
        pair("a", "p1", 1), {"query": "d", "pos": ["x"]},
    )  # fmt: skip
    items = list(scan_rows([path]))
    found = [item.to_mapping() for item in items if isinstance(item, Row)]
    assert found == [
        {"query": "d", "pos": ["x"], "neg": []},
        {"query": "a", "pos": ["p1"], "neg": ["n1", "n2"]},
        {"query": "b", "pos": ["p"], "neg": []},
    ]
    assert [item.where for item in items if isinstance(item, Row)] == [f"{path}:{number}" for number in (7, 1, 2)]
    (problem,) = [problem for item in items if isinstance(item, list) for problem in item]
    assert (problem.where, problem.code) == (f"{path}:4", "missing-pos")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["pos", "neg"]), st.sampled_from("pqrst")), max_size=40
    ),
    bucket=st.sampled_from([1, 2, 4096]),
    flushed=st.sampled_from([0, 100, 10**6]),
)
def test_gathering_on_disk_is_gathering_in_memory(
    entries: list[tuple[str, str, str]], bucket: int, flushed: int
) -> None:
    expected: dict[str, dict[str, dict[str, None]]] = {}
    for query, side, text in entries:
        expected.setdefault(query, {"pos": {}, "neg": {}})[side][text] = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "BUCKET", bucket)
        patch.setattr(grouping, "FLUSHED", flushed)
        with Grouping() as gathered:
            for number, (query, side, text) in enumerate(entries):
                pos, neg = ((text,), ()) if side == "pos" else ((), (text,))
                gathered.add(Row(query, pos, neg, f"f:{number}"))
            found = list(gathered.rows())
            folder = gathered._folder
        assert folder is None or not folder.exists()
    assert [item.query if isinstance(item, Row) else None for item in found] == [
        query if sides["pos"] else None for query, sides in expected.items()
    ]
    for item, sides in zip(found, expected.values()):
        if isinstance(item, Row):
            assert (list(item.positives), list(item.negatives)) == (list(sides["pos"]), list(sides["neg"]))


def test_gathered_rows_keep_scores_and_ids_where_all_lines_have_them() -> None:
    with Grouping() as gathered:
        gathered.add(Row("q", ("p",), ("n",), "f:1", (2.0,), (1.0,), {"pos_id": ["1"], "neg_id": ["2"], "k": 1}))
        gathered.add(Row("q", ("p",), ("m",), "f:2", (2.0,), (0.0,), {"pos_id": ["1"], "neg_id": ["3"], "k": 2}))
        gathered.add(Row("q", ("r",), (), "f:3", None, None, {"pos_id": ["4"]}))
        (row,) = gathered.rows()
    assert isinstance(row, Row)
    assert row.to_mapping() == {
        "query": "q", "pos": ["p", "r"], "neg": ["n", "m"], "neg_scores": [1.0, 0.0], "k": 1,
        "pos_id": ["1", "4"], "neg_id": ["2", "3"],
    }  # fmt: skip


ROW = st.builds(
    lambda query, pos, neg, scored: Row(
        query, tuple(pos), tuple(neg), "", tuple(map(float, range(len(pos)))) if scored else None,
        tuple(-float(index) for index in range(len(neg))) if scored else None,
    ),
    TEXT, st.lists(TEXT, min_size=1, max_size=3, unique=True), st.lists(TEXT, max_size=4, unique=True), st.booleans(),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(row=ROW, form=st.sampled_from(["rows", "triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron"]))
def test_a_row_comes_back_from_every_format(row: Row, form: str) -> None:
    layout = Layout(form, negatives=max(len(row.negatives), 1))
    written = list(layout.lines(row))
    if not row.negatives and form in ("triplet", "n-tuple"):
        assert written == []
        assert layout.lost["rows_without_negatives"] == 1
        return
    with Grouping() as gathered:
        for line in written:
            found, part = parse_record(json.loads(json.dumps(line)), "")
            assert found == form
            gathered.add(part)
        (back,) = gathered.rows()
    assert isinstance(back, Row)
    assert (back.query, back.positives, back.negatives) == (row.query, row.positives, row.negatives)
    if form in ("rows", "triplet", "n-tuple", "tevatron"):
        assert (back.pos_scores, back.neg_scores or None) == (row.pos_scores, row.neg_scores or None)
        assert not layout.lost["rows_losing_scores"]
    else:
        assert layout.lost["rows_losing_scores"] == (row.pos_scores is not None)


SCORED = Row("q", ("p", "r"), ("n", "m"), "", (3.0, 2.0), (1.0, 0.5), {"id": "7", "pos_id": ["1", "2"], "prompt": "x"})


def test_the_columns_of_sentence_transformers() -> None:
    def made(form: str, **keywords: Any) -> list[dict[str, Any]]:
        return list(Layout(form, **keywords).lines(SCORED))

    assert made("pair") == [{"anchor": "q", "positive": "p"}, {"anchor": "q", "positive": "r"}]
    triplet = made("triplet")
    assert len(triplet) == 4
    assert triplet[1] == {"anchor": "q", "positive": "p", "negative": "m", "scores": [3.0, 0.5]}
    assert made("triplet", scores="margin")[3] == {"anchor": "q", "positive": "r", "negative": "m", "score": 1.5}
    assert made("triplet", scores="none")[0] == {"anchor": "q", "positive": "p", "negative": "n"}
    assert made("n-tuple", negatives=2)[1] == {
        "anchor": "q", "positive": "r", "negative_1": "n", "negative_2": "m", "scores": [2.0, 1.0, 0.5],
    }  # fmt: skip
    assert made("n-tuple", negatives=2, scores="margin")[0]["scores"] == [2.0, 2.5]
    assert made("n-tuple", negatives=1)[0]["scores"] == [3.0, 1.0]
    assert made("n-tuple", negatives=3) == []
    assert made("labeled-pair")[1:3] == [
        {"query": "q", "passage": "r", "label": 1},
        {"query": "q", "passage": "n", "label": 0},
    ]
    assert made("labeled-pair", scores="list")[2] == {"query": "q", "passage": "n", "score": 1.0}
    assert made("labeled-list") == [{"query": "q", "docs": ["p", "r", "n", "m"], "labels": [1, 1, 0, 0]}]
    assert made("labeled-list", scores="list") == [
        {"query": "q", "docs": ["p", "r", "n", "m"], "scores": [3.0, 2.0, 1.0, 0.5]}
    ]


def test_what_a_format_cannot_hold_is_counted() -> None:
    def lost(form: str, **keywords: Any) -> dict[str, int]:
        layout = Layout(form, **keywords)
        list(layout.lines(SCORED))
        return {**{name: count for name, count in layout.lost.items() if count}, **layout.keys_lost}

    columns = {"rows_losing_ids": 1, "prompt": 1}
    assert lost("rows") == lost("tevatron") == {}
    assert lost("pair") == columns | {"rows_losing_negatives": 1, "rows_losing_scores": 1}
    assert lost("triplet") == columns
    assert lost("triplet", scores="margin") == columns | {"rows_losing_scores": 1}
    assert lost("n-tuple", negatives=1) == columns | {"negatives_cut": 1}
    assert lost("n-tuple", negatives=5) == columns | {"rows_short": 1}
    assert lost("labeled-list") == columns | {"rows_losing_scores": 1}
    assert lost("labeled-pair", scores="list") == columns | {"rows_losing_labels": 1}


def test_ids_are_the_rows_own_or_digests_of_the_texts() -> None:
    assert (query_id(SCORED), passage_ids(SCORED, "pos")) == ("7", ["1", "2"])
    assert passage_ids(SCORED, "neg") == [digest("n"), digest("m")]
    odd = Row("q", ("p",), (), "", extra={"id": True, "pos_id": ["1", "2"]})
    assert (query_id(odd), passage_ids(odd, "pos")) == (digest("q"), [digest("p")])
    assert passage_ids(Row("q", ("p",), (), "", extra={"pos_id": 4}), "pos") == ["4"]


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "pos": ["a", "a"], "neg": ["b"], "id": 1, "prompt": None},
        {"query": "q", "pos": ["a"]},
        {"neg": None, "pos": ["a"], "query": "q", "type": "x"},
        {"query": "q", "pos": ["a"], "neg": []},
    ],
)
def test_a_row_seen_to_be_sound_at_a_glance_is_the_row_that_every_check_passes(record: dict[str, Any]) -> None:
    assert parse_record(record, "f:1") == ("rows", parse_row(record, "f:1"))
    assert list(parse_record(record, "f:1")[1].extra) == list(parse_row(record, "f:1").extra)
