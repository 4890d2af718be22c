"""The command: verbs, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from finerank import __version__, cli
from finerank.core.errors import UserError
from finerank.core.options import VerbOptions, option
from finerank.core.outcomes import Outcome


@dataclass(kw_only=True)
class PlayOptions(VerbOptions):
    count: int = option(1, "how many")


def play(options: PlayOptions) -> Outcome:
    if options.count == 13:
        raise UserError("thirteen is bad", where="a:1", hint="take 12")
    if options.count == 14:
        raise KeyboardInterrupt
    if options.count == 15:
        raise RuntimeError("a bug")
    if options.count == 16:
        raise BrokenPipeError
    return Outcome("a table", {"count": options.count}, exit_code=int(options.count == 2))


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(PlayOptions=PlayOptions, run=play)
    drill = SimpleNamespace(PlayOptions=PlayOptions, run=lambda options, extras: Outcome("", {"extras": extras}))
    monkeypatch.setattr(cli, "import_module", lambda name: {"play": module, "drill": drill}[name])
    table = {
        "play": cli.Verb("play", "PlayOptions", "Play."),
        "train drill": cli.Verb("drill", "PlayOptions", "Drill.", True),
    }
    monkeypatch.setattr(cli, "VERBS", table)


def test_result_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["play"]) == 0
    assert capsys.readouterr() == ("a table\n", "")
    assert cli.main(["play", "--count", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"count": 2}


def test_extras_reach_a_verb_that_passes_them_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "drill", "--tf32", "--lr", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"extras": {"tf32": [], "lr": ["1"]}}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("play --count 13", 1, "error: a:1: thirteen is bad\nhint: take 12\n"),
        ("play --cuont 13", 2, 'error: unknown flag --cuont for play; did you mean "count"?'),
        ("paly", 2, 'error: unknown verb "paly"; did you mean "play"?'),
        ("train", 2, "error: train needs one of: drill"),
        ("train dril", 2, "error: train needs one of: drill"),
        ("play --count 14", 130, "interrupted"),
        ("play --count 15", 1, "error: RuntimeError: a bug\nhint: run it again with --debug"),
    ],
)
def test_errors_are_sentences_on_stderr(words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert "Traceback" not in err


def test_a_closed_pipe_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(cli.sys, "stderr", SimpleNamespace(close=lambda: closed.append(1), write=print))
    assert cli.main(["play", "--count", "16"]) == 1
    assert closed


@pytest.mark.parametrize(("count", "kind"), [("13", UserError), ("15", RuntimeError)])
def test_debug_shows_the_traceback(count: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        cli.main(["play", "--count", count, "--debug"])


def test_help_version_and_dump(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(words) == 0
        assert "train drill  Drill." in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"finerank {__version__}\n"
    assert cli.main(["train", "--help"]) == 0
    assert "finerank train drill --help" in capsys.readouterr().out
    assert cli.main(["play", "-h"]) == 0
    assert "--count INT" in capsys.readouterr().out
    assert cli.main(["play", "--count", "13", "--dump_config"]) == 0
    assert "count: 13" in capsys.readouterr().out
