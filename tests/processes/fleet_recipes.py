"""Engines without a model, for tests of the fleet: each does one thing, also to its own process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finerank.core.errors import UsageError, UserError
from finerank.core.protocols import Progress
from finerank.models.fleet import open_fleet

BAD = 13
"""The item that sets off what the engine is for."""


@dataclass(frozen=True)
class Lengths:
    """Items to their squares; what happens at ``BAD`` is ``fault``."""

    fault: str = ""

    def __call__(self, device: str) -> LengthsEngine:
        if self.fault == "unopened":
            raise UserError("there is no such device here", where=device, hint="take another")
        return LengthsEngine(self.fault, device)


class LengthsEngine:
    def __init__(self, fault: str, device: str) -> None:
        self.fault = fault
        own = device if fault == "unlike" else "same"
        self.facts: Mapping[str, Any] = {"fingerprint": own, "describe": {"device": device}, "pid": os.getpid()}

    def compute(self, items: Sequence[int], progress: Progress) -> NDArray[np.float32]:
        if BAD in items:
            self._misbehave()
        progress(len(items))
        return np.array(items, dtype=np.float32) ** 2

    def _misbehave(self) -> None:
        if self.fault == "exit":
            os._exit(3)
        elif self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "raise":
            raise ValueError("an item that cannot be")
        elif self.fault == "user error":
            raise UserError("this item is wrong", where="there", hint="mend it")
        elif self.fault == "usage error":
            raise UsageError("this cannot be asked")
        elif self.fault == "sleep":
            time.sleep(600)


def sleep_until_killed() -> None:
    """Open two workers, give them work that never ends, say who we are, and wait."""
    with open_fleet(Lengths("sleep"), ["cpu", "cpu"]) as fleet:
        pids = [worker.process.pid for worker in fleet._workers]  # type: ignore[attr-defined]
        pieces = iter([(0, [BAD]), (1, [BAD])])
        sys.stdout.write(" ".join(map(str, [os.getpid(), *pids])) + "\n")
        sys.stdout.flush()
        list(fleet.map(pieces, lambda count: None))


if __name__ == "__main__":
    # A shell that runs the tests in the background has had Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import fleet_recipes  # by its name, not as __main__: a worker must be able to import what it is sent

    fleet_recipes.sleep_until_killed()
