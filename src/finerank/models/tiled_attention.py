"""Attention in bfloat16 on a processor with AMX: ``attention_kernels`` as an operation of torch, by all its threads.

torch's own kernel loses most of its time around the products where heads are small, and its way back is slow
(benchmarks/README.md, docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finerank.models import attention_back_kernels, attention_kernels
from finerank.models.kernel_arrays import bits
from finerank.models.kernel_threads import cut, scratch, share

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("numba was told not to compile")


def attend(states: Tensor, starts: Tensor) -> Tensor:
    """Attend within each input.

    Args:
        states: queries, keys and values in bfloat16 [T, 3, H, D], D a multiple of 32.
        starts: where each input begins, and T behind the last, int64 [N + 1].

    Returns:
        [T, H * D].
    """
    if not (torch.is_grad_enabled() and states.requires_grad):
        return _attended(states.contiguous(), starts, levels=False)[0].flatten(1)
    attended: Tensor = _Attention.apply(states, starts)  # type: ignore[no-untyped-call]
    return attended


def _attended(states: Tensor, starts: Tensor, *, levels: bool) -> tuple[Tensor, Tensor]:
    """Return what is attended [T, H, D] and, for the way back, log2 of each row's sum of weights [H, T]."""
    count, _, heads, width = states.shape
    attended = torch.empty(count, heads, width, dtype=torch.bfloat16)
    of_rows = torch.empty(heads, count if levels else 0)
    arrays = bits(states), bits(attended), of_rows.numpy()
    _by_threads("tiled attention", attention_kernels.attend, attention_kernels.scratch_size, starts, width, arrays)
    return attended, of_rows


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, starts: Tensor) -> Tensor:
        states = states.contiguous()
        attended, levels = _attended(states, starts, levels=True)
        ctx.save_for_backward(states, starts, attended, levels)
        return attended.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        states, starts, attended, levels = ctx.saved_tensors
        gradient = gradients[0].to(torch.bfloat16).contiguous().view(attended.shape)
        back = torch.empty_like(states)
        arrays = *map(bits, (states, attended, gradient, back)), levels.numpy()
        size = attention_back_kernels.scratch_size
        _by_threads("tiled attention back", attention_back_kernels.attend_back, size, starts, states.shape[-1], arrays)
        return back, None


def _by_threads(
    name: str, kernel: Callable[..., None], size_of: Callable[[int, int], int], starts: Tensor, width: int,
    arrays: Sequence[Any],
) -> None:  # fmt: skip
    """Run a kernel over all inputs, a share for each of this thread's torch threads."""
    offsets = starts.numpy()
    size = size_of(int(np.diff(offsets).max()), width)
    threads = min(torch.get_num_threads(), len(offsets) - 1)
    ends = np.searchsorted(offsets, np.linspace(0, offsets[-1], threads + 1)).tolist()
    share(name, cut(lambda first, last: kernel(offsets[first : last + 1], width**-0.5, *arrays, scratch(size)), ends))
