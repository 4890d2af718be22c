"""A command run in a process of its own: its memory goes back to the system, and it dies with us, never without."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from finerank.core.errors import UserError

STDERR = 2
PR_SET_PDEATHSIG = 1
"""Linux: ask for a signal when the parent dies, even by SIGKILL."""


def run_command(command: Sequence[str], title: str) -> None:
    """Run a command to its end; what it says on stdout and stderr goes to our stderr.

    Ctrl-C and SIGTERM are left to the command, so that it saves its work; then we stop too.

    Raises:
        UserError: if it ends with an error; it has said which.
        KeyboardInterrupt: if it or we were interrupted.
    """
    sys.stderr.flush()
    process = subprocess.Popen(list(command), stdout=STDERR, preexec_fn=_die_with_parent)
    with _terminating(process):
        code = _wait(process)
    if code in (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise KeyboardInterrupt
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}; it says why above"
        raise UserError(f"the stage {how}", where=title, hint="run the same command again to go on from here")


def peak_memory() -> int:
    """Return the largest resident size in bytes that this process or a finished child of it had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal has sent it to the command too
        process.wait()
        raise


@contextmanager
def _terminating(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on to the process while it runs."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.terminate()

    try:
        before = signal.signal(signal.SIGTERM, forward)
    except ValueError:  # not in the main thread: the caller's handlers stay
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
