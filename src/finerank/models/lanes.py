"""Lanes: batches computed side by side on a CPU, each by its share of the threads.

Two threads on one small product wait for each other at its end, some hundred times a batch, and for a core that the
system has lent to somebody else; two threads on a batch each do not (benchmarks/README.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 5e-5
"""Seconds that a lane waits for another one's Python before it asks for its turn; Python's own 5 ms are a product's."""
KNOWN = ("transformers.models.", "sentence_transformers.", "torch.nn.", "finerank.")
"""Where code comes from that is known to keep nothing between two calls."""
MOST = 4
"""Python runs one thread at a time between two products: more lanes would wait for that."""


class Lanes:
    """Computes items one after the other, or with a pool side by side.

    Args:
        pool: of threads, each with its share of torch's.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None) -> None:
        self.pool = pool

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
        """Return ``function`` of the items in their order; a single item takes all threads."""
        if self.pool is None or len(items) == 1:
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


def fit(transformer: Any, *behind: Any) -> bool:
    """Say whether a transformers model, or what runs in its place, may be run by several threads at once.

    Not code from a model's folder, which may keep what it likes between two calls, not rotary positions that stretch
    with the longest text so far, and not BigBird, which changes its own attention for a short batch.

    Args:
        behind: modules that take up its output.
    """
    rotary = [getattr(transformer.config, name, None) for name in ("rope_parameters", "rope_scaling")]
    stretching = any(kind in str(rotary) for kind in ("dynamic", "longrope"))
    known = all(type(part).__module__.startswith(KNOWN) for part in (transformer, *behind))
    return known and not stretching and transformer.config.model_type != "big_bird"


@contextmanager
def opened(count: int) -> Iterator[Lanes]:
    """Open ``count`` lanes."""
    if count == 1:
        yield Lanes()
        return
    threads, patience = torch.get_num_threads(), sys.getswitchinterval()
    ready = Barrier(count)

    def prepare(_: int) -> None:
        torch.get_num_threads()  # a thread's first look at its number sets it to the latest one that any has set
        torch.set_num_threads(max(threads // count, 1))
        ready.wait()

    with ThreadPoolExecutor(count) as pool:
        try:
            sys.setswitchinterval(PATIENCE)
            try:
                list(pool.map(prepare, range(count)))
            finally:
                torch.set_num_threads(threads)  # threads made later would take the lanes' number
            yield Lanes(pool)
        except BaseException:
            ready.abort()
            pool.shutdown(wait=False, cancel_futures=True)  # what has begun ends, what waits is not begun
            raise
        finally:
            sys.setswitchinterval(patience)
