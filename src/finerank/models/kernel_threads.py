"""Kernels by several threads: Python's own, as a kernel releases the interpreter; and memory that each thread keeps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import record_function

from finerank.models.amx import CONFIG, whole_tiles


def share(name: str, pieces: Sequence[Callable[[], None]]) -> None:
    """Call all pieces of some work side by side, by as many threads as torch has, this one among them.

    Each takes what comes next: a core that is slow for a while holds up no more than one piece.

    Args:
        name: of the work, in a profile: it is no operation of torch.
    """
    coming = iter(pieces)

    def take() -> None:
        for piece in coming:
            piece()

    with record_function(name):
        others = [_helpers(os.getpid()).submit(take) for _ in range(min(torch.get_num_threads(), len(pieces)) - 1)]
        take()
        for other in others:
            other.result()


def cut(work: Callable[[int, int], None], marks: Sequence[int]) -> list[Callable[[], None]]:
    """Return the calls of ``work`` from each mark to the next one."""
    return [partial(work, first, last) for first, last in zip(marks, marks[1:]) if first < last]


def marks(count: int, unit: int = 1) -> list[int]:
    """Return the ends of even shares of ``count`` for each of torch's threads, in whole units."""
    units = count // unit
    threads = max(min(torch.get_num_threads(), units), 1)
    return [units * place // threads * unit for place in range(threads + 1)]


@lru_cache(maxsize=1)
def _helpers(process: int) -> ThreadPoolExecutor:
    """Return a process's own threads; those of its parent do not run in it."""
    return ThreadPoolExecutor()


_OWN = threading.local()


def scratch(size: int) -> NDArray[np.uint8]:
    """Return this thread's own memory, ``size`` bytes at least, on a line of the cache; tiles' setting stands in it."""
    known: NDArray[np.uint8] | None = getattr(_OWN, "scratch", None)
    if known is None or len(known) < size:
        memory = np.zeros(size + 64, np.uint8)
        known = _OWN.scratch = memory[-memory.ctypes.data % 64 :]
        known[64:CONFIG] = whole_tiles()
    return known
