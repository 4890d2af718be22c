"""The folder of runs: its own files replaced, others' never, stale ones gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from finerank.core.errors import UserError
from finerank.data.trec import read_run
from finerank.evaluation.run_files import RunFolder

QRELS = {"q": {"a": 1}}
RUN = {"q": {"a": 1.0, "b": 0.5}}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_same_evaluation_finds_its_runs_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs", "key", overwrite=False)
    assert not folder.done
    folder.write(QRELS, {"one": RUN, "two over one": RUN})
    assert names(tmp_path / "runs") == ["one.run", "qrels.txt", "runs.json", "two_over_one.run"]
    assert read_run(tmp_path / "runs" / "one.run") == RUN
    assert RunFolder(tmp_path / "runs", "key", overwrite=False).done
    (tmp_path / "runs" / "one.run").unlink()
    assert not RunFolder(tmp_path / "runs", "key", overwrite=False).done


def test_runs_of_arms_that_are_gone_go(tmp_path: Path) -> None:
    RunFolder(tmp_path, "key", overwrite=False).write(QRELS, {"one": RUN, "two": RUN})
    with pytest.raises(UserError, match="another evaluation"):
        RunFolder(tmp_path, "other", overwrite=False)
    RunFolder(tmp_path, "other", overwrite=True).write(QRELS, {"two": RUN})
    assert names(tmp_path) == ["qrels.txt", "runs.json", "two.run"]


def test_what_no_record_names_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.run").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"names: mine\.run"):
        RunFolder(tmp_path, "key", overwrite=False)
    RunFolder(tmp_path, "key", overwrite=True).write(QRELS, {"one": RUN})
    assert (tmp_path / "mine.run").read_text() == "mine"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_that_was_edited_is_not_done(tmp_path: Path) -> None:
    RunFolder(tmp_path, "key", overwrite=False).write(QRELS, {"one": RUN})
    (tmp_path / "one.run").write_text("q Q0 z 1 1.0 one\n")
    with pytest.raises(UserError, match="was changed"):
        RunFolder(tmp_path, "key", overwrite=False)


def test_a_killed_writer_may_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finerank.evaluation import run_files

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_files, "write_run", killed)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path, "key", overwrite=False).write(QRELS, {"one": RUN})
    monkeypatch.undo()
    folder = RunFolder(tmp_path, "key", overwrite=False)
    assert not folder.done
    folder.write(QRELS, {"one": RUN})
    assert RunFolder(tmp_path, "key", overwrite=False).done


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="found a file"):
        RunFolder(tmp_path / "runs", "key", overwrite=True)
