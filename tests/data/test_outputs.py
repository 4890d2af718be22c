"""Outputs survive crashes, refuse strangers and never tear."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from finerank.core.errors import UserError
from finerank.data.atomic import write_atomic
from finerank.data.outputs import Folder, Output, digest_output

SHARDS = 8


class Died(Exception):
    """Stands for whatever ends a run half-way."""


def dies() -> tuple[list[bytes], dict[str, Any]]:
    raise Died


WRITER = textwrap.dedent(
    """
    import sys, time
    from finerank.data.outputs import Output
    path, pause, size = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    def produce(index):
        time.sleep(pause)
        return [b"%d:%d:" % (index, line) + b"x" * size for line in range(20)], {"lines": 20}
    with Output.open(path, command="w", options={"seed": 1}, inputs=[]) as output:
        print("open", flush=True)
        if not output.done:
            total = sum(output.shard(index, lambda: produce(index))["lines"] for index in range(8))
            output.finish({"lines": total})
        print("done", flush=True)
    """
)


def writer(path: Path, pause: float = 0.0, size: int = 50) -> list[str]:
    return [sys.executable, "-c", WRITER, str(path), str(pause), str(size)]


def opened(path: Path, **changes: Any) -> Output:
    return Output.open(path, **{"command": "test", "options": {"seed": 1}, "inputs": []} | changes)  # type: ignore[arg-type]


def made(path: Path, calls: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """Write an output of three shards; return its manifest."""
    with opened(path, **changes) as output:
        if output.done:
            return output.manifest
        for index in range(3):
            output.shard(index, noted(index, calls))
        return output.finish({"shards": 3})


def noted(index: int, calls: list[int] | None = None) -> Callable[[], tuple[list[bytes], dict[str, Any]]]:
    def produce() -> tuple[list[bytes], dict[str, Any]]:
        if calls is not None:
            calls.append(index)
        return [b"shard %d" % index, b"again %d" % index], {"lines": 2, "index": index}

    return produce


WHOLE = b"shard 0\nagain 0\nshard 1\nagain 1\nshard 2\nagain 2\n"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_output_and_manifest_appear_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"rows")
    manifest = made(tmp_path / "out.jsonl", inputs=[source], models={"m": "abc"})
    assert (tmp_path / "out.jsonl").read_bytes() == WHOLE
    assert names(tmp_path) == ["in.jsonl", "out.jsonl", "out.jsonl.manifest.json"]
    assert manifest == json.loads((tmp_path / "out.jsonl.manifest.json").read_bytes())
    assert manifest["command"] == "test"
    assert manifest["seed"] == 1
    assert manifest["counts"] == {"shards": 3}
    assert manifest["bytes"] == len(WHOLE)
    assert manifest["models"] == {"m": "abc"}
    assert list(manifest["inputs"]) == [str(source)]
    assert {"finerank", "python", "torch"} <= set(manifest["versions"])


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    calls: list[int] = []
    first = made(tmp_path / "out", calls)
    assert made(tmp_path / "out", calls) == first
    assert calls == [0, 1, 2]
    assert made(tmp_path / "out", calls, overwrite=True)["sha256"] == first["sha256"]
    assert calls == [0, 1, 2, 0, 1, 2]


def test_a_failed_run_is_gone_on_with(tmp_path: Path) -> None:
    calls: list[int] = []
    with suppress(Died), opened(tmp_path / "out") as output:
        output.shard(0, noted(0, calls))
        output.shard(1, dies)
    assert names(tmp_path) == ["out.work"]
    manifest = made(tmp_path / "out", calls)
    assert calls == [0, 1, 2]
    assert manifest["resumed"] is True
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_a_run_that_fails_before_its_first_shard_leaves_nothing(tmp_path: Path) -> None:
    with suppress(Died), opened(tmp_path / "out"):
        raise Died
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "edit", "zero", "empty", "header"])
def test_a_torn_or_edited_shard_is_made_again(tmp_path: Path, damage: str) -> None:
    with suppress(Died), opened(tmp_path / "out") as output:
        output.shard(0, noted(0))
        output.shard(1, noted(1))
        raise Died
    shard = tmp_path / "out.work" / "000001.shard"
    content = bytearray(shard.read_bytes())
    if damage == "edit":
        content[-3] ^= 1
    elif damage == "header":
        content[70] ^= 1
    elif damage == "zero":
        content[:] = bytes(len(content))
    else:
        del content[len(content) // 2 if damage == "cut" else 0 :]
    shard.write_bytes(content)
    calls: list[int] = []
    made(tmp_path / "out", calls)
    assert calls == [1, 2]
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_other_options_inputs_or_models_are_refused_by_name(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"one")
    made(tmp_path / "out", inputs=[source], options={"seed": 1, "k": [1, 2]}, models={"m": "a"})
    before = (tmp_path / "out").read_bytes()
    same: dict[str, Any] = {"inputs": [source], "options": {"seed": 1, "k": [1, 2]}, "models": {"m": "a"}}
    for change, said in (
        ({"options": {"seed": 2, "k": [1, 2]}}, "--seed 1 → 2"),
        ({"options": {"seed": 1, "k": [1, 3]}}, "--k 1 2 → 1 3"),
        ({"models": {"m": "b"}}, "model m"),
        ({"command": "other"}, "command test → other"),
        ({"inputs": []}, "in.jsonl (gone)"),
    ):
        with pytest.raises(UserError, match="--overwrite") as caught:
            opened(tmp_path / "out", **same | change)
        assert said in str(caught.value)
    source.write_bytes(b"two")
    with pytest.raises(UserError, match=r"content of .*in\.jsonl"):
        opened(tmp_path / "out", **same)
    assert (tmp_path / "out").read_bytes() == before
    assert "out.work" not in names(tmp_path)
    assert made(tmp_path / "out", overwrite=True, **same)["counts"] == {"shards": 3}


def test_names_of_inputs_and_output_do_not_count(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    keys = set()
    for name in ("a", "b"):
        options = {"input_file": str(tmp_path / name), "output_file": f"out-{name}", "files": [str(tmp_path / name)]}
        keys.add(made(tmp_path / f"out-{name}", options=options, inputs=[tmp_path / name])["key"])
    assert len(keys) == 1


def test_half_done_work_of_another_run_is_refused_and_replaced(tmp_path: Path) -> None:
    with suppress(Died), opened(tmp_path / "out", options={"seed": 7}) as output:
        output.shard(0, lambda: ([b"other"], {}))
        raise Died
    with pytest.raises(UserError, match="half-done work of another run.*--seed 7 → 1"):
        opened(tmp_path / "out")
    made(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_a_file_without_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(UserError, match="no manifest"):
        opened(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"mine"
    assert names(tmp_path) == ["out"]


def test_an_edited_output_is_not_called_done(tmp_path: Path) -> None:
    made(tmp_path / "out")
    (tmp_path / "out").write_bytes(WHOLE + b"x")
    with pytest.raises(UserError, match="was changed"):
        opened(tmp_path / "out")


def test_the_old_output_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    made(tmp_path / "out")
    with suppress(Died), opened(tmp_path / "out", options={"seed": 2}, overwrite=True) as output:
        output.shard(0, lambda: ([b"new"], {}))
        raise Died
    assert (tmp_path / "out").read_bytes() == WHOLE
    with opened(tmp_path / "out", options={"seed": 2}) as output:  # the permission was given when the work began
        output.shard(0, lambda: ([b"newer"], {}))
        output.finish({})
    assert (tmp_path / "out").read_bytes() == b"new\n"


def test_leftovers_of_a_run_that_died_while_tidying_up_are_removed(tmp_path: Path) -> None:
    made(tmp_path / "out")
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "000002.shard").write_bytes(b"x")
    assert opened(tmp_path / "out").done
    assert names(tmp_path) == ["out", "out.manifest.json"]


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_death_around_the_last_rename(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def dying(source: Any, target: Any) -> None:
        if Path(target) != tmp_path / "out":
            return rename(source, target)
        if moment == "after the rename":
            rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out.manifest.json").exists()
    calls: list[int] = []
    made(tmp_path / "out", calls)
    assert calls == []
    assert (tmp_path / "out").read_bytes() == WHOLE
    assert names(tmp_path) == ["out", "out.manifest.json"]


def test_write_whole(tmp_path: Path) -> None:
    with opened(tmp_path / "deep" / "er" / "out.json") as output:
        manifest = output.write_whole(b"{}", {"n": 1}, {"more": [1]})
    assert manifest["more"] == [1]
    assert output.done
    assert (tmp_path / "deep" / "er" / "out.json").read_bytes() == b"{}"


def test_misuse_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as output:
        with pytest.raises(ValueError, match="newline"):
            output.shard(0, lambda: ([b"a\nb"], {}))
        output.shard(2, noted(2))
        with pytest.raises(ValueError, match="numbered"):
            output.finish({})
    with pytest.raises(ValueError, match="not open"):
        output.write_whole(b"", {})


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError):
        opened(tmp_path / "out", overwrite=True)
    with pytest.raises(UserError):
        write_atomic(tmp_path / "out", b"")


def test_kill_at_any_time_then_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run(writer(tmp_path / "calm"), check=True, capture_output=True)
    draw = random.Random(5)
    path, kills = tmp_path / "stormy", 0
    for _ in range(6):
        process = subprocess.Popen(writer(path, pause=0.05), stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    subprocess.run(writer(path), check=True, capture_output=True)
    assert path.read_bytes() == (tmp_path / "calm").read_bytes()
    assert not (tmp_path / "stormy.work").exists()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(writer(tmp_path / "out", pause=30), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_while_the_first_runs(tmp_path: Path, running: subprocess.Popen[bytes]) -> None:
    second = subprocess.run(writer(tmp_path / "out"), capture_output=True, text=True)
    assert second.returncode
    assert f"is being written by process {running.pid} on host" in second.stderr
    running.kill()
    running.wait()
    subprocess.run(writer(tmp_path / "out"), check=True, capture_output=True)


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"


def test_a_full_disk_names_the_path_and_leaves_the_old_output(tmp_path: Path) -> None:
    path = tmp_path / "out"
    command = writer(path, size=1000)
    command[2] = LIMITED + command[2]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode
    assert f"UserError: {path}: cannot be written" in failed.stderr
    assert "run the same command again" in failed.stderr
    assert not path.exists()
    subprocess.run(writer(path, size=1000), check=True, capture_output=True)
    assert len(path.read_bytes().splitlines()) == SHARDS * 20


def test_a_full_disk_while_joining(tmp_path: Path) -> None:
    path = tmp_path / "out"
    command = writer(path, size=100)  # a shard fits, all of them do not
    command[2] = LIMITED + command[2]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert f"UserError: {path}: cannot be written" in failed.stderr
    assert sorted(entry.name for entry in (tmp_path / "out.work").glob("*.shard"))
    subprocess.run(writer(path, size=100), check=True, capture_output=True)


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    output = opened(tmp_path / "out")
    output.shard(0, noted(0))
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(hear, 1)
        assert output._lock is not None
        output._lock.forget()  # what the kernel does for a killed process
        made(tmp_path / "out")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def folder(path: Path, **changes: Any) -> Folder:
    return Folder.open(path, **{"command": "train", "options": {"seed": 1}, "inputs": []} | changes)  # type: ignore[arg-type]


def filled(path: Path, content: str = "weights", **changes: Any) -> dict[str, Any]:
    with folder(path, **changes) as output:
        if not output.done:
            (path / "model.bin").write_text(content)
            (path / "sub").mkdir(exist_ok=True)
            (path / "sub" / "config.json").write_text("{}")
            (path / "checkpoint-5").mkdir(exist_ok=True)
            (path / "checkpoint-5" / "state").write_text("state")
            output.finish({"steps": 5})
        return output.manifest


def test_folder_is_done_once(tmp_path: Path) -> None:
    first = filled(tmp_path / "model")
    assert sorted(first["files"]) == ["model.bin", "sub/config.json"]
    assert filled(tmp_path / "model", content="other") == first
    assert (tmp_path / "model" / "model.bin").read_text() == "weights"
    assert names(tmp_path) == ["model", "model.manifest.json"]
    (tmp_path / "model" / "model.bin").write_text("edited")
    with pytest.raises(UserError, match="was changed"):
        folder(tmp_path / "model")


def test_folder_resumes_in_place_and_refuses_strangers(tmp_path: Path) -> None:
    with suppress(Died), folder(tmp_path / "model") as output:
        assert not output.resumed
        (tmp_path / "model" / "checkpoint-1").mkdir()
        raise Died
    with pytest.raises(UserError, match="--seed 1 → 2"):
        folder(tmp_path / "model", options={"seed": 2})
    with folder(tmp_path / "model") as output:
        assert output.resumed
        assert (tmp_path / "model" / "checkpoint-1").is_dir()
        output.finish({})


def test_what_a_killed_run_was_writing_is_no_part_of_a_folder(tmp_path: Path) -> None:
    with suppress(Died), folder(tmp_path / "model"):
        (tmp_path / "model" / "sub").mkdir()
        for torn in (".README.md.4651.tmp", "sub/.config.json.77.tmp"):
            (tmp_path / "model" / torn).write_text("half of i")
        raise Died
    made = filled(tmp_path / "model")
    assert sorted(made["files"]) == ["model.bin", "sub/config.json"]
    assert not list((tmp_path / "model").rglob("*.tmp"))
    before = digest_output(tmp_path / "model")
    (tmp_path / "model" / ".finerank_fusion.json.5.tmp").write_text("hal")  # a later write into it was killed
    assert digest_output(tmp_path / "model") == before
    assert filled(tmp_path / "model") == made


def test_folder_overwrite_keeps_the_old_one_until_the_new_one_is_done(tmp_path: Path) -> None:
    filled(tmp_path / "model", content="old")
    with suppress(Died), folder(tmp_path / "model", options={"seed": 2}, overwrite=True):
        assert names(tmp_path / "model") == []
        raise Died
    assert (tmp_path / "model" / "model.bin").read_text() == "old"  # nothing new was made: the old one is back
    assert names(tmp_path) == ["model", "model.manifest.json"]
    for seed in (2, 3):  # the second run finds the first one's half-done work
        with suppress(Died), folder(tmp_path / "model", options={"seed": seed}, overwrite=True):
            assert names(tmp_path / "model") == []
            (tmp_path / "model" / "half").write_text(str(seed))
            raise Died
        assert (tmp_path / "model.work" / "old" / "model.bin").read_text() == "old"
    filled(tmp_path / "model", content="new", options={"seed": 3})
    assert names(tmp_path) == ["model", "model.manifest.json"]
    assert (tmp_path / "model" / "model.bin").read_text() == "new"


def test_folder_refuses_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    folder(tmp_path / "model").close()  # an empty folder is nobody's
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="no manifest"):
        folder(tmp_path / "model")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        folder(tmp_path / "file", overwrite=True)


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fsync(handle: int) -> None:
        about = os.fstat(handle)
        done.append("folder" if stat.S_ISDIR(about.st_mode) else f"file of {about.st_size}")

    replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    write_atomic(tmp_path / "out", b"four")
    assert done == ["file of 4", "rename", "folder"]
