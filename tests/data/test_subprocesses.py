from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finerank.core.errors import UserError
from finerank.data.subprocesses import peak_memory, run_command

OUTER = """
import sys
from finerank.data.subprocesses import run_command
run_command([sys.executable, '-c', {!r}], 'stage')
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_what_a_command_says_on_stdout_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(python("print('result')"), "stage")
    assert capfd.readouterr() == ("", "result\n")


@pytest.mark.parametrize(
    ("script", "message"), [("exit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by signal 9")]
)
def test_a_failing_command_is_an_error_that_names_the_stage(script: str, message: str) -> None:
    with pytest.raises(UserError, match=f"tune it: the stage .*{message}"):
        run_command(python(script), "tune it")


@pytest.mark.parametrize("script", ["exit(130)", "import os; os.kill(os.getpid(), 15)"])
def test_an_interrupted_command_interrupts_us(script: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_command(python(script), "stage")


def test_sigterm_is_passed_on_so_that_the_command_can_save(tmp_path: Path) -> None:
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    inner = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(15, lambda *_: (pathlib.Path({str(saved)!r}).touch(), sys.exit(130)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)"
    )
    outer = OUTER.format(inner)
    process = subprocess.Popen(python(outer), stderr=subprocess.DEVNULL)
    _wait_for(ready)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    assert saved.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to be told of the parent's death")
def test_a_command_dies_with_a_killed_parent(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    inner = f"import os, pathlib, time\npathlib.Path({str(ready)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    outer = OUTER.format(inner)
    process = subprocess.Popen(python(outer))
    _wait_for(ready)
    child = int(ready.read_text())
    process.kill()
    process.wait()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.05)
    raise AssertionError("the command outlived its parent")


def test_peak_memory_is_in_bytes() -> None:
    assert 5 * 2**20 < peak_memory() < 2**40


def _wait_for(path: Path) -> None:
    for _ in range(400):
        if path.exists() and (path.stat().st_size or path.name == "ready"):
            time.sleep(0.1)
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (OSError, IndexError):
        return False
