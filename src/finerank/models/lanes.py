"""Lanes: batches computed side by side on a CPU, each by its share of the threads.

Two threads on one small product wait for each other at its end, some hundred times a batch, and for a core that the
system has lent to somebody else; two threads on a batch each do not (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 4
"""Python runs one thread at a time between two products: more lanes would wait for that."""


class Lanes:
    """Computes items one after the other, or with a pool side by side.

    Args:
        pool: of ``count`` threads, each with its share of torch's.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, count: int = 1) -> None:
        self.pool = pool
        self.count = count

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
        """Return ``function`` of the items in their order; fewer items than lanes take all threads, one by one."""
        if self.pool is None or len(items) < self.count:
            return map(function, items)
        enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        inferring = torch.is_inference_mode_enabled()

        def as_here(item: Item) -> Result:  # both modes are a thread's own
            with torch.inference_mode(inferring), torch.autocast("cpu", dtype=dtype, enabled=enabled):
                return function(item)

        return self.pool.map(as_here, items)


def count_on(device: torch.device) -> int:
    """Return how many lanes there are: one for each of torch's threads on a CPU, ``MOST`` at most."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def fit(transformer: Any) -> bool:
    """Say whether a transformers model, or what runs in its place, may be run by several threads at once.

    Not code from a model's folder, which may keep what it likes between two calls, and not rotary positions that
    stretch with the longest text so far.
    """
    rotary = [getattr(transformer.config, name, None) for name in ("rope_parameters", "rope_scaling")]
    stretching = any(kind in str(rotary) for kind in ("dynamic", "longrope"))
    return type(transformer).__module__.startswith(("transformers.models.", __package__)) and not stretching


@contextmanager
def opened(count: int) -> Iterator[Lanes]:
    """Open ``count`` lanes."""
    if count == 1:
        yield Lanes()
        return
    threads = torch.get_num_threads()
    ready = Barrier(count)

    def prepare(_: int) -> None:
        torch.get_num_threads()  # a thread's first look at its number sets it to the latest one that any has set
        torch.set_num_threads(max(threads // count, 1))
        ready.wait()

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(prepare, range(count)))
        # Threads made later would take the lanes' number.
        torch.set_num_threads(threads)
        yield Lanes(pool, count)
