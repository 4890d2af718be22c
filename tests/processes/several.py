"""A training in several processes of its own, as a launcher starts them: for tests."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny
import torch
import train_process
from fork_server import SERVER

from finerank.training import distributed
from finerank.training.arguments import join_processes

Run = tuple[str, dict[str, Any]]
LONGEST = 900.0
"""Seconds that processes may take before they count as stuck."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(log: Path, runs: Sequence[Run], processes: int = 2) -> list[Any]:
    """Start processes that do some trainings one after the other.

    Args:
        log: what process N says goes to ``<log>.N``.
        runs: ``tiny`` and the arguments of ``tiny.train``, or the options class of a verb's training and its values.
    """
    port = free_port()
    made = [SERVER.Process(target=run, args=(log, runs, rank, processes, port)) for rank in range(processes)]
    for process in made:
        process.start()
    return made


def finish(made: list[Any], log: Path) -> None:
    """Wait for the processes; where one failed, show what all said."""
    for process in made:
        process.join(LONGEST)
        process.kill()
    codes = [process.exitcode for process in made]
    assert codes == [0] * len(made), (codes, *(said(log, rank) for rank in range(len(made))))


def said(log: Path, rank: int) -> str:
    path = Path(f"{log}.{rank}")
    return path.read_text() if path.exists() else ""


def run(log: Path, runs: Sequence[Run], rank: int, processes: int, port: int) -> None:
    """Be one process."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in place.items()} if processes > 1 else {})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    sys.stderr = sys.stdout = open(f"{log}.{rank}", "a", buffering=1)  # noqa: SIM115
    faulthandler.dump_traceback_later(LONGEST - 5, file=sys.stderr)
    code = 1
    try:
        for number, (kind, options) in enumerate(runs):
            os.environ["MASTER_PORT"] = str(port + number)
            if kind == "tiny":
                _tiny(options)
            else:
                train_process.train(kind, dict(options))
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        # As the command does: gloo's threads may abort a process at a normal exit.
        os._exit(code)


def _tiny(options: dict[str, Any]) -> None:
    if not distributed.joined():
        join_processes({}, use_cpu=True)
    _, model = tiny.train(**options)
    if distributed.rank() == 0:
        model.save(Path(options["output_dir"]) / "final")
