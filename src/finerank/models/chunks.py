"""How many tokens of a batch go through a block at a time, and tokens with memory behind them that kernels may read."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finerank.models import packed
from finerank.models.layer_kernels import ROWS

CHUNK, LARGE_CHUNK = 256, 1024
"""Tokens, about, that go through a block at a time: where a layer's weights stay in a processor's second cache, and
where they come from afar for each chunk."""
NEAR = 2 << 20
"""Bytes of a layer's weights that stay near."""
Runs = tuple[tuple[int, int, int], ...]
"""``packed.Layout.runs``."""


def chunk_size(weights: int) -> int:
    """Return how many tokens, about, go through a block at a time whose largest layer has ``weights`` bytes."""
    return CHUNK if weights <= NEAR else LARGE_CHUNK


class Chunks(NamedTuple):
    """How a batch is cut: each chunk is some inputs, as many chunks for each thread where there are inputs enough.

    Attributes:
        starts: where inputs begin, and the last one ends; ``inputs``: the numbers of those that chunks begin with, and
            of inputs in all.
        places: where chunks begin, and the last one ends, if each begins at a multiple of 32.
        most: the tokens of the largest chunk; ``longest``: those of the longest input.
    """

    starts: NDArray[np.int64]
    inputs: NDArray[np.int64]
    places: NDArray[np.int64]
    most: int
    longest: int


@lru_cache(maxsize=64)
def chunks_of(runs: Runs, size: int, threads: int) -> Chunks:
    """Return chunks of some ``size`` tokens."""
    starts = packed.starts_of(runs).numpy()
    number = max(round(int(starts[-1]) / size / threads), 1) * threads
    inputs = np.unique(np.searchsorted(starts, np.linspace(0, starts[-1], number + 1)))
    counts = np.diff(starts[inputs])
    places = np.cumsum([0, *(-(-counts // ROWS) * ROWS)])
    return Chunks(starts, inputs, places, int(counts.max()), int(np.diff(starts).max()))


def with_room(count: int, width: int) -> Tensor:
    """Return memory for tokens [T, W] in bfloat16, and for some more behind them."""
    return torch.empty(count + ROWS, width, dtype=torch.bfloat16)[:count]


def roomy(tokens: Tensor) -> Tensor:
    """Return tokens [T, W] with memory for some more behind them."""
    count, width = tokens.shape
    behind_them = tokens.untyped_storage().nbytes() // tokens.element_size() - tokens.storage_offset() - count * width
    if tokens.is_contiguous() and behind_them >= ROWS * width:
        return tokens
    return with_room(count, width).copy_(tokens)
