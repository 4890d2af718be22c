"""Run a command as a fresh process and watch what it and its children take: seconds and the highest memory."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SAMPLED_SECONDS = 0.1
FIELDS = {"VmRSS": "resident", "RssAnon": "anonymous"}


def measured(
    command: Sequence[str], log: Path, *, limit: float | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command to its end; its output goes to ``log``.

    Returns exit (``"limit"`` where it was stopped after ``limit`` seconds), seconds, cpu_seconds (of it and the
    children it waited for; what else runs on the machine changes them little), and in MiB: peak (highest
    resident set of the process tree, pages of mapped files included; pages that processes share count in each) and
    anonymous (highest sum of what no file backs).
    """
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            list(command), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    highest = dict.fromkeys(FIELDS.values(), 0.0)
    over, stopped = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, highest, over))
    timer = threading.Timer(limit or threading.TIMEOUT_MAX, _stop, (process.pid, stopped))
    timer.daemon = True
    watcher.start()
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        _stop(process.pid, stopped)
        raise
    finally:
        timer.cancel()
        over.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit": "limit" if stopped.is_set() else process.returncode,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak": round(max(highest["resident"], usage.ru_maxrss / 1024), 1),
        "anonymous": round(highest["anonymous"], 1),
    }


def _stop(group: int, stopped: threading.Event) -> None:
    """Kill the command and its children, a group of their own."""
    stopped.set()
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _watch(root: int, highest: dict[str, float], over: threading.Event) -> None:
    while not over.wait(SAMPLED_SECONDS):
        fields = [_memory(process) for process in _tree(root)]
        for name in highest:
            highest[name] = max(highest[name], sum(each.get(name, 0.0) for each in fields))


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _memory(process: int) -> dict[str, float]:
    """Return the fields of a process in MiB; none if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().split("\n")
    except OSError:
        return {}
    parts = (line.partition(":") for line in lines)
    return {FIELDS[key]: int(rest.split()[0]) / 1024 for key, _, rest in parts if key in FIELDS}
