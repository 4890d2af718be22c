"""Several devices: one process each, which take pieces of work as they become free.

A recipe opens an engine on a device; an engine turns a piece's items into rows of float32. With one device the engine
runs here. With several, each worker is a process of its own, started afresh (not forked), that is fed through a
socket. A worker that dies is noticed by its socket's end, and so is our own death by the workers: nobody is waited for
who is not there. Results come in any order; they are those of one device, since a piece is computed as a whole.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from finerank.core.errors import UsageError, UserError
from finerank.core.protocols import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Piece = tuple[int, list[Any]]
"""Its number and its items."""
AHEAD = 2
"""Pieces that a worker holds: the one it computes and the next."""
PATIENCE = 5.0
"""Seconds that a process whose socket has ended may take to end too."""
START = "import sys; sys.path[:] = sys.argv[2:]; from finerank.models import worker; worker.main(int(sys.argv[1]))"


class Engine(Protocol):
    """Computes pieces on one device."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the model: ``fingerprint``, ``describe`` (for the banner) and more; plain values."""
        ...

    def compute(self, items: Sequence[Any], progress: Progress) -> NDArray[np.float32]:
        """Return one row of results per item: [N] or [N, D]."""
        ...


Recipe = Callable[[str], Engine]
"""Opens an engine on a device. It is pickled: a frozen dataclass with ``__call__``, defined in a module."""


class Fleet(Protocol):
    """One or several engines that have been opened."""

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def map(self, pieces: Iterable[Piece], progress: Progress) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the pieces' numbers and results as they are done."""
        ...

    def __enter__(self) -> Fleet: ...

    def __exit__(self, *error: object) -> None: ...


def open_fleet(recipe: Recipe, devices: Sequence[str]) -> Fleet:
    """Open an engine on every device; a single one runs in this process.

    Raises:
        UserError: if an engine cannot be opened, or a worker dies.
    """
    return Alone(recipe, devices[0]) if len(devices) == 1 else Workers(recipe, devices)


class Alone:
    """One engine, in this process."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.engine = recipe(device)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.engine.facts

    def map(self, pieces: Iterable[Piece], progress: Progress) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for index, items in pieces:
            yield index, self.engine.compute(items, progress)

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class Workers:
    """One process per device; all of them end when this is left, whatever the reason."""

    def __init__(self, recipe: Recipe, devices: Sequence[str]) -> None:
        self._workers: list[_Worker] = []
        try:
            for place, device in enumerate(devices):
                self._workers.append(_Worker(device))
                self._workers[-1].send((recipe, device, len(devices), place > 0))
            self.facts = self._opened()
        except BaseException:
            self.close()
            raise

    def map(self, pieces: Iterable[Piece], progress: Progress) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield results as they come; a worker gets its next piece before it has finished the one it works on."""
        source = iter(pieces)
        while True:
            for _ in range(AHEAD):
                for worker in self._workers:
                    self._feed(worker, source)
            if not any(worker.pending for worker in self._workers):
                return
            for worker, message in self._messages():
                if message[0] == "progress":
                    progress(message[1])
                else:
                    worker.pending -= 1
                    yield message[1], message[2]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _feed(self, worker: _Worker, source: Iterator[Piece]) -> None:
        if worker.pending >= AHEAD:
            return
        piece = next(source, None)
        if piece is not None:
            worker.send(piece)
            worker.pending += 1

    def _messages(self) -> list[tuple[_Worker, Any]]:
        """Wait until at least one worker has something to say."""
        speakers = {worker.connection: worker for worker in self._workers}
        return [(speakers[ready], speakers[ready].receive()) for ready in wait(list(speakers))]  # type: ignore[index]

    def _opened(self) -> Mapping[str, Any]:
        """Wait for all engines; return what the first one says of the model.

        Raises:
            UsageError: if they are not alike.
        """
        facts: dict[str, Mapping[str, Any]] = {}
        waiting = list(self._workers)
        while waiting:
            for ready in wait([worker.connection for worker in waiting]):
                worker = next(each for each in waiting if each.connection is ready)
                facts[worker.name] = worker.receive()[1]
                waiting.remove(worker)
        first = facts[self._workers[0].name]
        for worker in self._workers:
            if facts[worker.name]["fingerprint"] != first["fingerprint"]:
                raise UsageError(
                    f"the model is not the same on {self._workers[0].device} and {worker.device}: these devices would "
                    "give different results",
                    hint=f"--devices {self._workers[0].device}",
                )
        devices = ", ".join(worker.device for worker in self._workers)
        return {**first, "describe": {**first["describe"], "device": devices}}


class _Worker:
    """A process on one device, seen from here."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.pending = 0
        ours, theirs = socket.socketpair()
        with theirs:
            # No fork of this process, whose threads and CUDA would not survive it; no import of its __main__ either.
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno()), *map(os.path.abspath, sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,  # Ctrl-C is for us; we end the workers
            )
        self.name = f"{device} {self.process.pid}"
        self.connection = Connection(ours.detach())

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            failed = self._failed()
            raise failed from failed.__cause__  # where in the worker it arose, rather than that the pipe is gone

    def receive(self) -> Any:
        """Return what the worker says next.

        Raises:
            UserError: its own error, or that it died.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if message[0] == "error":
            raise _error_of(self.device, message[1])
        return message

    def end(self) -> None:
        """End the process, at once: what it was computing is nobody's any more."""
        self.connection.close()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _failed(self) -> UserError:
        """Return the error of a worker that no longer listens: its last words, or that it died."""
        try:
            while True:
                self.receive()
        except UserError as error:
            return error

    def _died(self) -> UserError:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        code = self.process.poll()
        hint = "run the same command again to go on from here"
        if code is None:
            return UserError(f"the worker on {self.device} stopped answering", hint=hint)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
            how = f"died with signal {-code} ({name})"
            if -code == signal.SIGKILL:
                hint = f"the system kills a process that takes more memory than there is; {hint}"
        else:
            how = f"died with exit code {code}"
        return UserError(f"the worker on {self.device} {how}", hint=hint)


class WorkerTraceback(Exception):
    """Where in a worker's process an error arose; ``--debug`` shows it."""

    def __str__(self) -> str:
        return f"in the worker's process\n{self.args[0]}"


def _error_of(device: str, told: Mapping[str, Any]) -> UserError:
    """Turn what a worker tells of its error into an error here."""
    if told["expected"]:
        kind = UsageError if told["usage"] else UserError
        return kind(told["message"], where=told["where"], hint=told["hint"])
    error = UserError(
        f"the worker on {device} failed: {told['message']}", hint="run it again with --debug to see where"
    )
    error.__cause__ = WorkerTraceback(told["traceback"])
    return error
