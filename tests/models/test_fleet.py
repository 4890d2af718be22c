"""Workers: the results of one device, their errors and deaths said at once, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fleet_recipes import BAD, Lengths

from finerank.core.errors import UsageError, UserError
from finerank.models import fleet, worker

TWO = ["npu", "npu"]


def pieces(count: int, *, bad: int = -1) -> list[tuple[int, list[int]]]:
    return [(index, [BAD if index == bad else 100 + index, index]) for index in range(count)]


def results(devices: list[str], given: list[tuple[int, list[int]]]) -> tuple[dict[int, list[float]], int]:
    told: list[int] = []
    with fleet.open_fleet(Lengths(), devices) as opened:
        found = {index: rows.tolist() for index, rows in opened.map(given, told.append)}
    return found, sum(told)


def pids_of(opened: fleet.Fleet) -> list[int]:
    return [each.process.pid for each in opened._workers]  # type: ignore[attr-defined]


def gone(pid: int) -> bool:
    """Say whether a process has ended; a dead one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(gone, pids)):
        time.sleep(0.05)
    return all(map(gone, pids))


def test_two_workers_give_what_one_engine_gives_here() -> None:
    expected = {index: [float(first) ** 2, float(index) ** 2] for index, (first, _) in pieces(23)}
    assert results(["npu"], pieces(23)) == (expected, 46)
    assert results(TWO, pieces(23)) == (expected, 46)
    assert results(TWO, pieces(1)) == results(["npu"], pieces(1))
    assert results(TWO, []) == ({}, 0)


def test_large_pieces_pass_both_ways() -> None:
    given = [(index, list(range(index, index + 200_000))) for index in range(6)]
    with fleet.open_fleet(Lengths(), TWO) as opened:
        for index, rows in opened.map(given, lambda count: None):
            np.testing.assert_array_equal(rows, np.arange(index, index + 200_000, dtype=np.float32) ** 2)


def test_both_workers_work_and_the_facts_name_both() -> None:
    with fleet.open_fleet(Lengths(), TWO) as opened:
        assert opened.facts["describe"] == {"device": "npu, npu"}
        assert opened.facts["pid"] != os.getpid()
        pids = pids_of(opened)
        assert len(set(pids)) == 2
    assert wait_for(pids, 60)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("exit", r"the worker on npu died with exit code 3"),
        ("kill", r"the worker on npu died with signal 9 \(SIGKILL\)\nhint: .*more memory"),
        ("raise", r"the worker on npu failed: ValueError: an item that cannot be\nhint: .*--debug"),
        ("user error", r"^there: this item is wrong\nhint: mend it$"),
        ("usage error", r"^this cannot be asked$"),
    ],
)
def test_a_worker_that_fails_ends_the_run_at_once(fault: str, said: str) -> None:
    with fleet.open_fleet(Lengths(fault), TWO) as opened:
        pids, begun = pids_of(opened), time.monotonic()
        with pytest.raises(UserError, match=said) as caught:
            list(opened.map(pieces(40, bad=5), lambda count: None))
        assert time.monotonic() - begun < 10
    assert wait_for(pids, 60)
    assert caught.value.exit_code == (2 if fault == "usage error" else 1)
    if fault == "raise":
        assert "_misbehave" in str(caught.value.__cause__)


def test_the_last_words_of_a_worker_are_kept_where_the_pipe_was_gone_first() -> None:
    with fleet.open_fleet(Lengths("raise"), TWO) as opened:
        worker = opened._workers[0]
        lost = UserError("the worker failed")
        lost.__cause__ = fleet.WorkerTraceback("there")
        worker._failed = lambda: lost  # type: ignore[method-assign]
        worker.connection.close()
        with pytest.raises(UserError) as caught:
            worker.send(("anything",))
        assert caught.value.__cause__ is lost.__cause__


def test_an_idle_worker_that_was_killed_is_noticed() -> None:
    with fleet.open_fleet(Lengths(), TWO) as opened:
        os.kill(pids_of(opened)[1], signal.SIGKILL)
        with pytest.raises(UserError, match="died with signal 9"):
            list(opened.map(pieces(10), lambda count: None))


def test_an_engine_that_cannot_be_opened_says_why_itself() -> None:
    with pytest.raises(UserError, match="^npu: there is no such device here\nhint: take another$"):
        fleet.open_fleet(Lengths("unopened"), TWO)


def test_models_that_differ_between_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="not the same on npu:0 and npu:1"):
        fleet.open_fleet(Lengths("unlike"), ["npu:0", "npu:1"])


def test_leaving_in_the_middle_ends_the_workers() -> None:
    with fleet.open_fleet(Lengths("sleep"), TWO) as opened:
        pids = pids_of(opened)
        done = opened.map([(0, [1]), (1, [BAD]), (2, [BAD]), (3, [1])], lambda count: None)
        assert next(done)[0] == 0
    assert wait_for(pids, 60)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).parent.parent / "processes" / "fleet_recipes.py"
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_leave_when_their_parent_is_gone(sleeper: subprocess.Popen[str], number: signal.Signals) -> None:
    assert sleeper.stdout is not None
    pids = list(map(int, sleeper.stdout.readline().split()))
    assert len(pids) == 3
    assert not any(map(gone, pids))
    time.sleep(0.3)  # in the middle of their pieces
    sleeper.send_signal(number)
    sleeper.wait(120)
    assert wait_for(pids, 60)


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (9, 1)])
def test_workers_on_the_processor_share_its_threads(
    workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    told: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    worker._share_threads("cpu", workers)
    worker._share_threads("cuda:0", workers)
    assert told == [threads]
