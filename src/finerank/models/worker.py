"""A worker process: opens an engine on its device and computes what comes through its socket (see ``fleet``)."""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from finerank.core.errors import UsageError, UserError
from finerank.data import console


def main(handle: int) -> None:
    """Serve the socket ``handle`` until the other side closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(handle)
    try:
        recipe, device, workers, silent = connection.recv()
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
        if silent:
            console.mute()
        _share_threads(device, workers)
        engine = recipe(device)
        connection.send(("ready", dict(engine.facts)))
        while True:
            index, items = inbox.get()
            rows = engine.compute(items, lambda count: connection.send(("progress", count)))
            connection.send(("result", index, rows))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        os._exit(1)  # nobody is left to tell
    except BaseException as error:
        with suppress(OSError):
            connection.send(("error", _told(error)))
        # What was sent stands in the socket until it is read; a normal end could be held up by threads.
        os._exit(1)


def _listen(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Take in work; leave with the process that gives it, also in the middle of a piece."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _share_threads(device: str, workers: int) -> None:
    """Take this worker's part of the processors, where all workers compute on them."""
    if device.startswith("cpu"):
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _told(error: BaseException) -> dict[str, Any]:
    """Return what the other side is told of an error."""
    text = " ".join(str(error).split())
    told: dict[str, Any] = {
        "expected": isinstance(error, UserError),
        "usage": isinstance(error, UsageError),
        "message": f"{type(error).__name__}: {text}" if text else type(error).__name__,
        "where": None,
        "hint": None,
        "traceback": traceback.format_exc(),
    }
    if isinstance(error, UserError):
        told |= {"message": error.message, "where": error.where, "hint": error.hint}
    return told
