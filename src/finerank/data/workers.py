"""Work shared out to processes that hold nothing of ours: each is a fresh interpreter that serves one function.

They are started by command and not by ``multiprocessing``, so that a caller's script needs no ``__main__`` guard and
threads or locks of the caller cannot be inherited. One that dies is noticed at once; all end when the parent does,
since their input ends.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from finerank.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import finerank.data.workers as w; w.serve()"
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
AHEAD = 2
"""Items in flight for each process, so that none waits for the parent."""


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(sources: Iterable[object], wanted: int, piece: int) -> int:
    """Return how many processes are worth starting: no more than wanted, than cores, than pieces of ``piece`` bytes.

    A source that is no file counts as large.
    """
    pieces = 0
    for source in sources:
        path = Path(str(source))
        packed = 8 if path.suffix in (".gz", ".zst", ".parquet") else 1
        pieces += path.stat().st_size * packed // piece + 1 if path.is_file() else wanted
    return max(min(wanted, cores(), pieces), 1)


class Workers:
    """``processes`` copies of ``make(*parts)``, a function of one argument; 1 of them is made in this process.

    Args:
        make: importable by name; called once in each process.
        parts: its arguments; they and all that passes must pickle.
    """

    def __init__(self, make: Callable[..., Callable[[Any], Any]], parts: tuple[Any, ...], processes: int) -> None:
        self.make, self.parts, self.processes = make, parts, processes
        self._idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._own: Callable[[Any], Any] | None = None

    def __enter__(self) -> Workers:
        if self.processes == 1:
            self._own = self.make(*self.parts)
        else:
            for _ in range(self.processes):
                self._idle.put(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            if kind is not None:
                process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            process.wait()

    def call(self, item: Any) -> Any:
        """Return the function's value for one item; threads may call at the same time.

        Raises:
            UserError: that the function raised, or that says that the process died.
        """
        if self._own is not None:
            return self._own(item)
        process = self._idle.get()
        try:
            kind, value = self._ask(process, item)
        except (EOFError, OSError):
            code = process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            hint = "if memory ran out, use fewer processes: --num_proc"
            raise UserError(f"a worker process ended with {how} before its work was done", hint=hint) from None
        finally:
            self._idle.put(process)
        if kind == "error":
            raise value
        return value

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``work(item)`` in order; ``work`` asks ``call`` and runs in as many threads as there are processes."""
        if self.processes == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self.processes) as threads:
            waiting: deque[Future[Result]] = deque()
            try:
                for item in items:
                    waiting.append(threads.submit(work, item))
                    if len(waiting) >= AHEAD * self.processes:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ONE_THREAD
        )
        self._all.append(process)
        for message in (sys.path, (self.make, self.parts)):
            _send(process.stdin, message)
        return process

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], item: Any) -> tuple[str, Any]:
        _send(process.stdin, item)
        kind, value = pickle.load(process.stdout)  # type: ignore[arg-type]
        return str(kind), value


def serve() -> None:
    """Be a worker: read the function, then item after item from stdin, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(EOFError, BrokenPipeError):
        make, parts = pickle.load(sys.stdin.buffer)
        function = None
        while True:
            item = pickle.load(sys.stdin.buffer)
            try:
                function = function or make(*parts)
                answer = ("done", function(item))
            except UserError as error:
                answer = ("error", error)
            except Exception:
                answer = ("error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
            _send(answers, answer)
    os._exit(0)  # the parent may be gone: nothing is to be flushed or said


def _send(stream: Any, message: Any) -> None:
    pickle.dump(message, stream, protocol=5)
    stream.flush()
