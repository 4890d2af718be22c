"""Worker processes: order, errors, deaths."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import worker_tasks

from finerank.core.errors import UserError
from finerank.data.workers import Workers, cores, processes_for


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    with Workers(worker_tasks.make_slow_double, (3,), processes) as workers:
        assert list(workers.map(workers.call, range(9))) == [3 + 2 * number for number in range(9)]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_the_function_is_raised(processes: int) -> None:
    with Workers(worker_tasks.make_failing, (), processes) as workers, pytest.raises(UserError, match="b:2: bad five"):
        list(workers.map(workers.call, range(1, 9)))


def test_work_is_done_elsewhere_and_a_death_is_said() -> None:
    with Workers(worker_tasks.make_dying, (), 2) as workers:
        assert workers.call("pid") != os.getpid()
        with pytest.raises(UserError, match="signal 9 before its work was done"):
            workers.call("die")


def test_another_error_shows_where_it_was() -> None:
    with Workers(worker_tasks.make_failing, (), 2) as workers, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        workers.call(0)


def test_what_the_function_prints_is_not_taken_for_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(worker_tasks.make_printing, (), 2) as workers:
        assert workers.call("hello") == 5
    assert "hello" in capfd.readouterr().err


def test_as_many_processes_as_are_worth_it(tmp_path: Path) -> None:
    small, large = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    small.write_bytes(b"x")
    large.write_bytes(b"x" * 1000)
    assert processes_for([small], 16, 100) == 1
    assert processes_for([large], 16, 100) == min(11, cores())
    assert processes_for([large], 1, 100) == 1


def test_items_are_not_read_far_ahead() -> None:
    read: list[int] = []

    def items() -> object:
        for number in range(100):
            read.append(number)
            yield number

    call: Callable[[int], int] = worker_tasks.make_slow_double(0)
    with Workers(worker_tasks.make_slow_double, (0,), 2) as workers:
        results = workers.map(workers.call, items())  # type: ignore[arg-type]
        assert next(results) == call(0)
        time.sleep(0.05)
        assert len(read) <= 5
        results.close()  # type: ignore[attr-defined]
