"""The thirty kinds of bad input: each has a policy, a code and a place."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finerank.core.errors import DataError, UserError
from finerank.core.records import Row
from finerank.data import lines
from finerank.data.sources import read_candidates, read_pool, read_rows, scan_rows

GOOD = b'{"query": "q", "pos": ["p"], "neg": ["n"]}'


def row(**changes: object) -> bytes:
    line = {"query": "q", "pos": ["p"], "neg": ["n"]} | changes
    return json.dumps({key: value for key, value in line.items() if value is not ...}).encode()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", "b")
    return stream.getvalue()


# kind of the list, content, code expected, line expected (None: the whole file)
REJECTED = [
    pytest.param(b"", "empty-file", None, id="1-empty"),
    pytest.param(b"  \n\n\t\n", "empty-file", None, id="2-only-blank-lines"),
    pytest.param(GOOD + b'\n{"query": "q", "pos": ["p', "truncated", 2, id="3-truncated-last-line"),
    pytest.param(GOOD[:-1] + b",}", "trailing-comma", 1, id="4-trailing-comma"),
    pytest.param(b"{'query': 'q'}", "single-quotes", 1, id="5-single-quotes"),
    pytest.param(GOOD + b"\n" + GOOD + GOOD, "two-values", 2, id="6-two-objects"),
    pytest.param(GOOD + b"\n[1]", "not-an-object", 2, id="7-array"),
    pytest.param(b'"text"', "not-an-object", 1, id="7-scalar"),
    pytest.param(b"[\n" + GOOD + b"\n]", "json-array", 1, id="8-array-named-jsonl"),
    pytest.param(b"[" + GOOD + b"]", "json-array", 1, id="8-array-on-one-line"),
    pytest.param(GOOD.decode().encode("utf-16"), "utf-16", None, id="10-utf16"),
    pytest.param(GOOD.decode().encode("utf-16-le"), "utf-16", None, id="10-utf16-le-without-mark"),
    pytest.param(GOOD.decode().encode("utf-16-be"), "utf-16", None, id="10-utf16-be-without-mark"),
    pytest.param(GOOD + b'\n{"query": "caf\xe9"}', "not-utf8", 2, id="11-latin1"),
    pytest.param(b'{"query": "\\ud800", "pos": ["p"]}', "lone-surrogate", 1, id="12-lone-surrogate"),
    pytest.param(GOOD + b'\n{"query": "a\x01b", "pos": ["p"]}', "control-character", 2, id="13-control"),
    pytest.param(b'{"query": "a\\u0000b", "pos": ["p"]}', "nul-query", 1, id="14-nul-escape"),
    pytest.param(b'{"query": "q", "pos": ["p"], "pos_scores": [NaN]}', "not-finite", 1, id="17-nan"),
    pytest.param(b'{"query": "q", "pos": ["p"], "pos_scores": [-Infinity]}', "not-finite", 1, id="17-inf"),
    pytest.param(b'{"query": "q", "pos": ["p"], "pos_scores": [1e999]}', "not-finite", 1, id="18-1e999"),
    pytest.param(b'{"query": "q", "n": ' + b"9" * 400 + b"}", "not-finite", 1, id="18-400-digits"),
    pytest.param(b'{"query": "q", "pos": ["a"], "pos": ["b"]}', "duplicate-key", 1, id="19-duplicate-key"),
    pytest.param(b'{"query": ' + b"[" * 100_000, "too-deep", 1, id="20-nesting"),
    pytest.param(row(pos="abc"), "bad-pos", 1, id="21-pos-a-string"),
    pytest.param(row(pos=None), "bad-pos", 1, id="22-pos-null"),
    pytest.param(row(pos=[None]), "bad-pos", 1, id="22-pos-of-null"),
    pytest.param(row(pos=[""]), "blank-pos", 1, id="22-pos-blank"),
    pytest.param(row(pos=[]), "empty-pos", 1, id="22-pos-empty"),
    pytest.param(row(neg="abc"), "bad-neg", 1, id="22-neg-a-string"),
    pytest.param(row(pos=...), "missing-pos", 1, id="23-no-pos"),
    pytest.param(row(query=...), "missing-query", 1, id="23-no-query"),
    pytest.param(row(query=7), "bad-query", 1, id="24-query-int"),
    pytest.param(row(query=""), "blank-query", 1, id="24-query-empty"),
    pytest.param(row(query=" \t"), "blank-query", 1, id="24-query-blank"),
    pytest.param(row(pos_scores=[1.0, 2.0]), "length-pos_scores", 1, id="25-pos-scores"),
    pytest.param(row(neg_scores=[]), "length-neg_scores", 1, id="25-neg-scores"),
    pytest.param(row(pos_scores=["1.0"]), "bad-pos_scores", 1, id="26-score-string"),
    pytest.param(row(pos_scores=[True]), "bad-pos_scores", 1, id="26-score-bool"),
    pytest.param(gzip.compress(GOOD), "gzip", None, id="30-gzip"),
    pytest.param(zipped(), "zip", None, id="30-zip"),
    pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)), "binary", None, id="30-binary"),
    pytest.param(b"PAR1" + b"\x15\x00" * 20, "parquet", None, id="30-parquet"),
]
ACCEPTED = [
    pytest.param(GOOD + b"\n\n  \n" + GOOD + b"\n\n", 2, id="2-blank-lines-skipped"),
    pytest.param(b"\xef\xbb\xbf" + GOOD + b"\n", 1, id="9-byte-order-mark"),
    pytest.param(GOOD + b"\r\n" + GOOD + b"\r\n", 2, id="15-crlf"),
    pytest.param('{"query": "a\u2028b\u0085c", "pos": ["p\x0b"]}'.replace("\x0b", "\u2029").encode(), 1, id="16-u2028"),
    pytest.param(row(neg=...), 1, id="23-no-neg"),
    pytest.param(row(neg=None), 1, id="23-neg-null"),
    pytest.param(row(neg=["p", " P "]), 1, id="27-positive-in-negatives-is-a-warning-of-check"),
    pytest.param(row() + b"\n" + row(pos=["other"]), 2, id="28-duplicate-queries-are-a-warning-of-check"),
    pytest.param(row(pos=["word " * 1_000_000]), 1, id="29-million-tokens"),
]


@pytest.mark.parametrize(("content", "code", "line"), REJECTED)
def test_bad_content_is_refused_with_place_and_code(
    tmp_path: Path, content: bytes, code: str, line: int | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows([path])
    problem = next(problem for problem in caught.value.problems if problem.code == code)
    assert problem.where == (str(path) if line is None else f"{path}:{line}")
    assert "\n" not in problem.message
    assert len(problem.message) < 300
    scanned = [item for item in scan_rows([path]) if not isinstance(item, Row)]
    assert code in {problem.code for found in scanned for problem in found}


@pytest.mark.parametrize(("content", "count"), ACCEPTED)
def test_odd_content_is_read(tmp_path: Path, content: bytes, count: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert len(read_rows([path])) == count


def test_text_is_kept_byte_exact(tmp_path: Path) -> None:
    text = "é e\u0301 ﬁ \u200b\u2028 👩\u200d👧 \u202eabc"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": text, "pos": [text]}, ensure_ascii=False) + "\n", encoding="utf-8")
    (found,) = read_rows([path])
    assert found.query == text
    assert found.positives == (text,)


def test_blank_lines_do_not_shift_line_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n\n" + GOOD + b"\n\n" + GOOD + b"\n\n")
    assert [found.where for found in read_rows([path])] == [f"{path}:3", f"{path}:5"]
    assert "skipped 3 blank lines" in capsys.readouterr().err


def test_a_line_over_the_bound_is_refused_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row(pos=["x" * 5000]) + b"\n" + GOOD + b"\n" + row(query="y" * 990) + b"\n" + GOOD)
    found = list(scan_rows([path]))
    assert [isinstance(item, Row) for item in found] == [False, True, False, True]
    assert found[0][0].code == "long-line"  # type: ignore[index]
    assert found[3].where == f"{path}:4"  # type: ignore[union-attr]


def test_all_problems_are_collected_and_ten_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([row(pos=[])] * 25))
    with pytest.raises(DataError) as caught:
        read_rows([path])
    assert len(caught.value.problems) == 25
    text = str(caught.value)
    assert f"{path}:10" in text
    assert f"{path}:11" not in text
    assert "and 15 more" in text


@pytest.mark.parametrize("shape", ["missing", "folder", "loop", "pipe", "denied-parent", "nul"])
def test_what_is_no_file_gives_one_sentence(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "rows.jsonl"
    if shape == "folder":
        path.mkdir()
    elif shape == "loop":
        path.symlink_to(path)
    elif shape == "pipe":
        os.mkfifo(path)
    elif shape == "denied-parent":
        (tmp_path / "file").write_bytes(b"")
        path = tmp_path / "file" / "rows.jsonl"
    elif shape == "nul":
        path = Path(f"{tmp_path}/a\0b")
    for read in (lambda: read_rows([path]), lambda: read_pool(path), lambda: read_candidates(path)):
        with pytest.raises(UserError) as caught:
            read()
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in caught.value.message


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["query", "pos", "neg", "pos_scores", "x"]), inner),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    content=st.binary()
    | st.lists(JSONISH.map(lambda v: json.dumps(v).encode())).map(b"\n".join)
    | st.text(alphabet='[]{}",:\\\n 1aé\u2028').map(str.encode),
    suffix=st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".json.zst", ".parquet", ""]),
)
@example(content=b"\x1f\x8b\x08\x00", suffix=".jsonl.gz")
@example(content=b"[" * 5000, suffix=".json")
@example(content=b'[{"a": "' + b'\\"' * 5000, suffix=".json")
@example(content=b"PAR1" * 10, suffix=".parquet")
def test_any_bytes_give_rows_or_a_user_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    for read in (lambda: read_rows([path]), lambda: read_pool(path), lambda: read_candidates(path)):
        told = ""
        try:
            assert read()
        except UserError as error:
            told = str(error)
        assert not told or str(path) in told


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(str.strip)
ROW = st.fixed_dictionaries({"query": TEXT, "pos": st.lists(TEXT, min_size=1), "neg": st.lists(TEXT)})


def written(rows: list[dict[str, object]], form: str) -> tuple[str, bytes]:
    flat = [json.dumps(each, ensure_ascii=form == "ascii").encode() for each in rows]
    whole = json.dumps(rows, ensure_ascii=False, indent=2 if form == "pretty" else None).encode()
    return {
        "ascii": ("a.jsonl", b"\n".join(flat)),
        "lines": ("a.json", b"\n".join(flat) + b"\n"),
        "crlf": ("a.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(flat)),
        "array": ("a.json", whole),
        "pretty": ("a.json", whole + b"\n"),
        "gz": ("a.jsonl.gz", gzip.compress(b"\n".join(flat))),
        "zst": ("a.json.zst", zstandard.compress(whole)),
    }[form]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    form=st.sampled_from(["ascii", "lines", "crlf", "array", "pretty", "gz", "zst"]),
)
def test_every_form_of_the_same_rows_reads_the_same(tmp_path: Path, rows: list[dict[str, object]], form: str) -> None:
    name, content = written(rows, form)
    (tmp_path / name).write_bytes(content)
    assert [found.to_mapping() for found in read_rows([tmp_path / name])] == rows
