"""Blocks: every line once, with its number, wherever a block ends."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import Problem
from finerank.data.blocks import Block, blocks_of
from finerank.data.files import iter_records

LINES = st.lists(st.sampled_from([b'{"a": 1}', b'{"b": "\xe2\x80\xa8"}\r', b"", b"  ", b"{bad", b'{"c": [1, 2, 3]}']))


@given(lines=LINES, end=st.sampled_from([b"", b"\n"]), size=st.integers(1, 60), most=st.integers(1, 5))
def test_blocks_hold_the_records_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes, size: int, most: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + end)
    blocks = list(blocks_of([path], max_bytes=size, max_lines=most))
    found = [record for block in blocks for record in block.records()]
    expected = list(iter_records(path)) or [(str(path), Problem(str(path), "empty-file", "the file holds no row"))]
    assert found == expected
    assert all(len(list(block.records())) <= most for block in blocks)
    raw = [line for block in blocks if isinstance(block.data, bytes) for line in block.lines()]
    assert raw == [line.strip(b" \r") for line in lines if line.strip()]


def test_of_a_file_that_is_no_jsonl_only_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("[\n" + '{"query": "q"},\n' * 100 + "]")
    problems = [value for block in blocks_of([path], max_bytes=50, max_lines=9) for _, value in block.records()]
    assert [problem.code for problem in problems if isinstance(problem, Problem)] == ["json-array"]


def test_packed_torn_and_parsed_files(tmp_path: Path) -> None:
    rows = [{"query": f"q{number}", "pos": ["p"]} for number in range(30)]
    packed, torn, parsed = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz", tmp_path / "c.json"
    packed.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    torn.write_bytes(packed.read_bytes()[:-20])
    parsed.write_text(json.dumps(rows))

    def blocks(path: Path) -> list[Block]:
        return list(blocks_of([path], max_bytes=100, max_lines=7))

    for path in (packed, parsed):
        assert [json.loads(line) for block in blocks(path) for line in block.lines()] == rows
    last = blocks(torn)[-1].data
    assert isinstance(last, list)
    assert isinstance(last[-1][1], Problem)
    assert last[-1][1].code == "unreadable"
    assert [block.origin for block in blocks_of([packed, parsed], max_bytes=10**6, max_lines=100)] == [0, 1]


def test_labeled_pairs_become_rows_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    pairs = [("q", "yes", 1), ("r", "only", 1), ("q", "no", 0)]
    path.write_text("".join(json.dumps(dict(zip(("query", "passage", "label"), pair))) + "\n" for pair in pairs))
    (block,) = blocks_of([path], max_bytes=100, max_lines=7, gather=True)
    rows = [value for _, value in block.records() if isinstance(value, dict)]
    assert [(row["query"], row["pos"], row["neg"]) for row in rows] == [("q", ["yes"], ["no"]), ("r", ["only"], [])]
    (block,) = blocks_of([path], max_bytes=1000, max_lines=7)
    assert len(block.lines()) == 3
