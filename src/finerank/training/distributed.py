"""Several processes as one: sums and vectors that cross between them. In a single process all of it is free.

A launcher such as torchrun has started the processes; ``arguments.join_processes`` joins them to a process group.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")
_by_itself = False
"""Whether the first process is doing something that the others only wait for."""


def rank() -> int:
    """Return the number of this process; 0 where there is only one."""
    return dist.get_rank() if joined() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if joined() else 1


def total(value: float, device: torch.device) -> float:
    """Return the sum of a number over the processes."""
    if world_size() == 1:
        return value
    # float32 would lose a row count beyond 16 million; MPS has no float64, and no second process either.
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return float(tensor)


def most(value: int, device: torch.device) -> int:
    """Return the greatest of the processes' numbers."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def from_first(make: Callable[[], Made]) -> Made:
    """Have the first process make something that can be pickled, and give it to all.

    To ``make``, there is no other process. Where it fails, the first process raises what went wrong; the others leave
    without a word of their own.
    """
    if world_size() == 1:
        return make()
    box: list[Any] = [None]
    try:
        if rank() == 0:
            with _alone():
                box = [(make(),)]
    finally:
        dist.broadcast_object_list(box)
    if box[0] is None:
        raise SystemExit(1)
    made: Made = box[0][0]
    return made


def held_by_first(make: Callable[[], Callable[[], Made] | None]) -> Callable[[], Made] | None:
    """Have the first process make a function that it alone can call; the others only learn whether there is one."""
    own: list[Callable[[], Made] | None] = []

    def made() -> bool:
        own.append(make())
        return own[0] is not None

    if not from_first(made):
        return None
    return own[0] if own else _not_here


def _not_here() -> Any:
    raise RuntimeError("only the first process can do this")


@dataclass
class Seen:
    """The output folder as the processes see it that do not write it."""

    path: Path
    done: bool
    manifest: dict[str, Any]


@contextmanager
def claimed(claim: Callable[[], Any]) -> Iterator[Any]:
    """Let the first process claim the output folder; the others see what it found."""
    own: list[Any] = []

    def open_it() -> Seen:
        own.append(claim())
        return Seen(own[0].path, own[0].done, own[0].manifest if own[0].done else {})

    seen = from_first(open_it)
    if own:
        with own[0] as folder:
            yield folder
    else:
        yield seen


@contextmanager
def _alone() -> Iterator[None]:
    global _by_itself
    _by_itself = True
    try:
        yield
    finally:
        _by_itself = False


def leave() -> None:
    """End the process group in order: gloo aborts a process that still holds a wrapped model then."""
    if world_size() > 1:
        gc.collect()
        dist.barrier()
    if joined():
        dist.destroy_process_group()


class Gathered(NamedTuple):
    """What all processes hold, laid end to end by rank.

    Attributes:
        tensor: [sum of N_r, …].
        start: where this process's own rows begin.
    """

    tensor: Tensor
    start: int


def gather(tensor: Tensor) -> Gathered:
    """Lay the processes' tensors [N_r, …] end to end; N_r may differ. Gradients flow back to where they came from.

    The gradient that a process gets for its own rows is the sum of what all processes' losses say about them.
    """
    if world_size() == 1:
        return Gathered(tensor, 0)
    sizes = _sizes(tensor)
    if tensor.is_floating_point():
        whole: Tensor = _Gather.apply(tensor, sizes)  # type: ignore[no-untyped-call]
    else:
        whole = _laid_out(tensor, sizes)
    return Gathered(whole, sum(sizes[: rank()]))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _laid_out(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        start = sum(ctx.sizes[: rank()])
        return whole[start : start + ctx.sizes[rank()]], None


def _laid_out(tensor: Tensor, sizes: list[int]) -> Tensor:
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


def _sizes(tensor: Tensor) -> list[int]:
    own = torch.tensor(len(tensor), device=tensor.device)
    sizes = [torch.zeros_like(own) for _ in range(world_size())]
    dist.all_gather(sizes, own)
    return [int(size) for size in sizes]


def joined() -> bool:
    """Say whether this process belongs to a process group."""
    return not _by_itself and dist.is_available() and dist.is_initialized()
