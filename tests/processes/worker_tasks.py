"""Functions that tests serve in worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from finerank.core.errors import UserError


def make_slow_double(added: int) -> Callable[[int], int]:
    def double(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return added + 2 * number

    return double


def make_failing() -> Callable[[int], float]:
    def fail(number: int) -> float:
        if number == 5:
            raise UserError("bad five", where="b:2")
        return 1 / number if number == 0 else number

    return fail


def make_dying() -> Callable[[str], int]:
    def die(what: str) -> int:
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    return die


def make_printing() -> Callable[[str], int]:
    def show(text: str) -> int:
        print(text, flush=True)  # noqa: T201
        return len(text)

    return show
