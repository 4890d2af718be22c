"""One fork server for all tests of a session: what a training or a verb imports is loaded once, not by every process.

There is one server per test process, and the last call of ``set_forkserver_preload`` decides what it loads; so this
module alone makes that call.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# torch._dynamo: every optimizer and every DDP module imports it when it is first used.
SERVER.set_forkserver_preload(["tiny", "train_process", "several", "verb_process", "torch._dynamo", "freeze"])


class ForkedWorker:
    """A fleet's worker from the fork server, in the shape of the ``subprocess.Popen`` that starts a fresh one."""

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], **streams: Any) -> None:
        with Connection(os.dup(pass_fds[0])) as theirs:
            self._process = SERVER.Process(target=_serve, args=(theirs,))
            self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return code

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _serve(connection: Connection) -> None:
    from finerank.models import worker

    worker.main(os.dup(connection.fileno()))
