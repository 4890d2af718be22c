"""Texts are compared in one normal form; what a person sees is plain and aligned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.data import console
from finerank.data.text import digest, normal_form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("e\u0301", "é"),
        ("ﬁne", "FINE"),
        ("Ｈｅｌｌｏ", "hello"),
        ("a\u00a0\u2003b\n", " a b"),
        ("Straße", "STRASSE"),
        ("①", "1"),
    ],
)
def test_texts_that_read_the_same_are_the_same(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("ab", "a b"), ("a-b", "ab"), ("résumé", "resume"), ("", "x")])
def test_texts_that_read_differently_are_not(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


@given(st.text())
def test_the_normal_form_is_stable(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


def test_digest_is_exact() -> None:
    assert digest("a") == digest("a")
    assert len(digest("")) == 32
    assert len({digest(text) for text in ("a", "A", "a ", "e\u0301", "é", "\ud800")}) == 6


def test_table_and_clock() -> None:
    text = console.table(["model", "rows", "nDCG"], [["base", 1200, 0.5], ["tuned", 7, 0.61239]])
    assert text == ("model   rows    nDCG\n-----  -----  ------\nbase   1,200  0.5000\ntuned      7  0.6124")
    assert console.table(["a"], []) == "a\n-"
    assert console.table(["a", "b"], [["x", True]]).endswith("x  True")
    assert [console.clock(seconds) for seconds in (0.4, 75, 3675)] == ["0:00", "1:15", "1:01:15"]


def test_what_is_said_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.banner("mine", {"model": "m", "rows": 1200})
    console.say("one")
    console.warn("two")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "mine\n  model  m\n  rows   1,200\none\nwarning: two\n"


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    console.say("one")
    with console.progress(3, "encode") as update:
        update(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "first"),
    [
        (200, "encode: 100 of 200 texts (50%), 10.0 texts/s, 0:10 gone, 0:10 left"),
        (0, "encode: 100 texts, 10.0 texts/s, 0:10 gone"),
    ],
)
def test_progress_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, total: int, first: str
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress(total, "encode") as update:
        update(1)  # too soon for a line
        now[0] = 10.0
        update(99)
        update(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == first
    assert len(lines) == 2
    assert "200" in lines[1]


def test_short_work_shows_no_progress_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(5, "encode") as update:
        update(5)
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    script = (
        "import sys, finerank.data.console as c\n"
        "sys.stderr.isatty = lambda: True\n"
        "with c.progress(4, 'encode') as update:\n    update(4)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "encode" in done.stderr
    assert done.stdout == ""


def test_tables_and_banners_align_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.table(["模型", "n"], [["检索模型", 1], ["e\u0301te\u0301", 20]]).splitlines()
    assert {console.width(line) for line in lines} == {12}
    assert lines[0] == "模型       n"
    console.banner("t", {"数据": "a", "rows": "b"})
    assert capsys.readouterr().err == "t\n  数据  a\n  rows  b\n"


def test_a_long_night_leaves_a_short_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress(36_000, "encode") as update:
        for second in range(36_000):
            now[0] = float(second)
            update(1)
            if second == 60:
                assert len(capsys.readouterr().err.splitlines()) == 12
    assert 550 < len(capsys.readouterr().err.splitlines()) < 700


def test_a_passage_gives_the_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b[31mb\x07\x9bc\tд\r")
    assert capsys.readouterr().err == "a\ufffd[31mb\ufffd\ufffdc\tд\ufffd\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_result_is_lost_to_an_encoding(encoding: str) -> None:
    script = (
        "from finerank.data.console import show, show_json, say\n"
        "show('0.56 → 0.66 \\ud800')\nshow_json('[\"é😀\\x9b\"]')\nsay('→')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    arrow = "→" if encoding == "utf-8" else "\\u2192"
    first, rest = done.stdout.decode().split("\n", 1)
    assert first == f"0.56 {arrow} 0.66 \\ud800"
    assert json.loads(rest) == ["é😀\x9b"]


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after ``output``: carriage returns, line ends and moves up are obeyed."""
    lines, row, column, place = [""], 0, 0, 0
    while place < len(output):
        mark = output[place]
        if output.startswith("\x1b[A", place):
            row, place = row - 1, place + 3
            continue
        if mark == "\n":
            row, column = row + 1, column
            lines += [""] * (row + 1 - len(lines))
        elif mark == "\r":
            column = 0
        else:
            lines[row] = f"{lines[row]:<{column}}"[:column] + mark + lines[row][column + 1 :]
            column += 1
        place += 1
    return [line.rstrip() for line in lines]


def test_what_is_said_beside_a_bar_has_a_line_of_its_own() -> None:
    import pty

    script = (
        "import finerank.data.console as c\n"
        "with c.progress(4, 'training', 'rows') as update:\n"
        "    update(2)\n    c.say('step 2 of 4: loss 0.5')\n"
        "    with c.progress(9, 'evaluating') as inner:\n        inner(9)\n        c.warn('narrow')\n"
        "    update(2)\nc.say('done')\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stderr=child, stdout=subprocess.PIPE)
    os.close(child)
    blocks = []
    while True:
        try:
            block = os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        blocks.append(block)
    os.close(parent)
    assert process.wait() == 0
    shown = screen(b"".join(blocks).decode())
    assert [line for line in shown if line] == ["step 2 of 4: loss 0.5", "warning: narrow", "done"]
