"""Texts are compared in one normal form; what a person sees is plain and aligned."""

from __future__ import annotations

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
