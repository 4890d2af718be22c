"""What a block's rows look like, and how blocks are joined."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import DataError
from finerank.core.records import parse_row
from finerank.data.blocks import Block
from finerank.data.examine import Examiner
from finerank.data.lint import Lint, judgements
from finerank.data.plain_rows import plain_row
from finerank.data.row_keys import odd_keys
from finerank.data.text_looks import FLAGS, Looks, fingerprint, nearly_same

LONG = "a passage that is long enough"
TEXT = st.one_of(
    st.text(max_size=12),
    st.text(" abC.,\t\n\x0b\x1c\x7f'Ｈéß", min_size=1, max_size=12),
    st.sampled_from([LONG, "two  spaces in it", " a space before", "a space behind ", "... --- ...", "x" * 20_001]),
)


@given(texts=st.lists(TEXT.filter(lambda text: bool(text.strip()) and "\0" not in text), min_size=2, max_size=5))
def test_a_row_in_one_go_looks_as_its_texts_one_by_one(texts: list[str]) -> None:
    at_once, one_by_one = Looks().of_row(texts, "\0".join(texts)), Looks().of_row(texts, None)
    assert at_once[:3] == one_by_one[:3]
    assert at_once.digests == [fingerprint(text) for text in texts]


@given(texts=st.lists(st.text("abC .,é1", min_size=1, max_size=4).filter(str.strip), min_size=3, max_size=6))
def test_a_glance_misses_no_pair_that_is_nearly_the_same(texts: list[str]) -> None:
    looks = Looks().of_row(texts, "\0".join(texts))
    assert looks.may_be_near(1) or not nearly_same(looks.forms[1:2], looks.forms[2:])


def test_a_glance_settles_most_rows() -> None:
    texts = ["what is it", "it is this", "that it is not", "nor this"]
    assert not Looks().of_row(texts, "\0".join(texts)).may_be_near(1)
    assert Looks().of_row([*texts, "it is, this"], "\0".join([*texts, "it is, this"])).may_be_near(1)


VALUES = st.one_of(st.none(), st.just(1), st.just(""), st.just(" "), st.just("a\0b"), st.text(max_size=3))
LISTS = st.one_of(VALUES, st.lists(VALUES, max_size=3))


@given(record=st.dictionaries(st.sampled_from(["query", "pos", "neg", "id", "pos_scores", "positive"]), LISTS))
def test_a_plain_row_is_one_that_parses(record: dict[str, Any]) -> None:
    found = plain_row(record)
    if found is None:
        return
    row = parse_row(record, "a:1")
    assert found[0] == [row.query, *row.positives, *row.negatives]
    assert found[1] == len(row.positives)


def test_most_rows_are_plain() -> None:
    assert plain_row({"query": "q", "pos": ["p"], "neg": ["n"], "id": 1}) == (["q", "p", "n"], 1, "q\0p\0n")
    assert plain_row({"query": "q", "pos": ["p"]}) is not None
    with pytest.raises(DataError):
        parse_row({"query": "q", "pos": []}, "a:1")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (LONG, []),
        ("Grüße aus München", []),
        ("çedilla “quotes” – dash", []),
        ("na\ufffdve and sentimental", ["damaged-text"]),
        ("donâ€™t panic now", ["damaged-text"]),
        ("crÃ¨me brÃ»lÃ©e", ["damaged-text"]),
        ("bell \x07 rings here", ["control-characters"]),
        ("tabs\tand\nlines are fine", []),
        ("--------------", ["no-words"]),
        ("Paris", ["short-passage"]),
        ("巴黎圣母院", []),
        ("x y " * 6000, ["long-text"]),
    ],
)
def test_flags_of_a_text(text: str, flags: list[str]) -> None:
    found = Looks().of_row(["query", text], None).flags
    assert [code for bit, code in enumerate(FLAGS) if found >> bit & 1] == flags


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("it is, said she: so", "it is said she so", True),
        ("«it is so»", "it is so", True),
        ("it is so 1", "it is so 2", False),
        ("what", "that", False),
        ("...", "!!!", False),
    ],
)
def test_nearly_same(one: str, other: str, same: bool) -> None:
    assert nearly_same(["something else", one], ["no match", other]) is same


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("query pos neg id prompt type pos_id neg_id pos_scores neg_scores category title url", []),
        ("query pos neg_score", [("odd-key", "neg_score")]),
        ("query pos Neg", [("odd-key", "Neg")]),
        ("qurey pos", [("odd-key", "qurey")]),
        ("query pos negs", [("odd-key", "negs")]),
        ("query postive", [("odd-key", "postive")]),
        ("question pos query", [("key-twice", "question")]),
        ("anchor positive negative", []),
        ("query pos positive", [("key-twice", "positive")]),
    ],
)
def test_odd_keys(keys: str, found: list[tuple[str, str]]) -> None:
    assert list(odd_keys(tuple(keys.split()))) == found


def lint_of(rows: list[dict[str, Any]], size: int, tests: dict[str, Any] | None = None) -> Lint:
    lint, examiner = Lint(tests), Examiner(2)
    for start in range(0, len(rows), size):
        body = b"".join(json.dumps(row).encode() + b"\n" for row in rows[start : start + size])
        lint.add(examiner(Block(0, "f", start + 1, body)))
    return lint


WORDS = st.sampled_from(["cat and dog", "Cat  and dog", "tree and leaf", "red, green", "red green", "x"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"query": WORDS, "pos": st.lists(WORDS, max_size=2), "neg": st.lists(WORDS, max_size=2)},
        optional={"id": st.integers(0, 2), "pos_id": st.lists(st.integers(0, 3), max_size=2)},
    ),
    max_size=8,
)


@given(rows=ROWS)
def test_blocks_do_not_matter(rows: list[dict[str, Any]]) -> None:
    tests = {"t": judgements([("cat and dog", ["red green"])])}
    whole, cut = lint_of(rows, 100, tests), lint_of(rows, 3, tests)
    assert whole.findings() == cut.findings()
    assert whole.facts() == cut.facts()
    assert (whole.leaks, whole.problems) == (cut.leaks, cut.problems)


@given(rows=ROWS)
def test_comparisons_between_rows_by_hand(rows: list[dict[str, Any]]) -> None:
    """Siblings, repeats and ids, compared pair by pair."""
    good = [(at, row) for at, row in enumerate(rows, 1) if row["pos"]]
    fold = {at: {side: {fingerprint(text) for text in row[side]} for side in ("pos", "neg")} for at, row in good}
    same: dict[str, set[int]] = {"sibling-positive": set(), "duplicate-row": set(), "duplicate-query": set()}
    ids, clashes = {}, set()  # type: ignore[var-annotated]
    for at, row in good:
        others = [other for other, each in good if fingerprint(each["query"]) == fingerprint(row["query"])]
        elsewhere = set().union(*(fold[other]["pos"] for other in others)) - fold[at]["pos"]
        if elsewhere & fold[at]["neg"]:
            same["sibling-positive"].add(at)
        before = [fold[other]["pos"] for other in others if other < at]
        if before:
            same["duplicate-row" if fold[at]["pos"] in before else "duplicate-query"].add(at)
        if "id" in row and ids.setdefault(row["id"], fingerprint(row["query"])) != fingerprint(row["query"]):
            clashes.add(at)
    lint = lint_of(rows, 3)
    found = {each.code: set(lint.lines(each)["f"]) for each in lint.findings()}
    for code, lines in (same | {"duplicate-id": clashes}).items():
        assert found.get(code, set()) == lines
