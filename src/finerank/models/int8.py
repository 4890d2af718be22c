"""An encoder's blocks in int8, for inference on a processor with AMX: nothing to calibrate, nothing to export.

The model stays what it was, in bfloat16, and is marked: its blocks are laid out in int8 where they would be in bfloat16
(``fused``), by ``int8_kernels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import record_function

from finerank.models import packed
from finerank.models.attention_kernels import scratch_size as attention_scratch_size
from finerank.models.bert_block import behind, head_size, is_gelu, linears
from finerank.models.int8_kernels import BLOCK, Weights, block, scratch_size
from finerank.models.kernel_threads import marks, scratch, share
from finerank.models.norm_kernels import Norm
from finerank.models.tiled_attention import bits

CHUNK = 256
"""Tokens, about, that go through a block at a time."""
INNER = 64
"""What the inner width of a product is a multiple of."""


class Block:
    """One block of an encoder like BERT in int8.

    Args:
        projections: queries, keys and values; ``layers``: the attention's output, up, down; ``norms`` behind the
            first and the last of these.
        heads: of the attention.
    """

    def __init__(
        self, projections: Sequence[nn.Linear], layers: Sequence[nn.Linear], norms: Sequence[nn.LayerNorm], heads: int
    ) -> None:
        self.projections = _laid_out(projections)
        self.layers = tuple(_laid_out([layer]) for layer in layers)
        self.norms = tuple(Norm(_reals(norm.weight), _reals(norm.bias), np.float32(norm.eps)) for norm in norms)
        self.heads = heads
        self.inner = layers[1].out_features

    def __call__(self, tokens: Tensor, runs: tuple[tuple[int, int, int], ...]) -> Tensor:
        """Run the block over the real tokens [T, W] of a batch, in bfloat16 (``packed.Layout.runs``)."""
        _, width = tokens.shape
        result, chunks = torch.empty_like(tokens), _chunks(runs)
        starts = packed.starts_of(runs).numpy()
        given = bits(tokens.contiguous()), self.projections, self.layers, self.norms
        longest = max(length for _, _, length in runs)
        size = max(scratch_size(width, self.inner), attention_scratch_size(longest, width // self.heads))
        most = int(np.diff(starts[chunks]).max())

        def work(first: int, last: int) -> None:
            block(first, last, chunks, starts, *given, self._rooms(most, width), bits(result), scratch(size))

        with record_function("block in int8"):
            share(work, marks(len(chunks) - 1))
        return result

    def _rooms(self, count: int, width: int) -> tuple[NDArray[Any], ...]:
        """Return memory for a chunk of ``count`` tokens (``int8_kernels.block``)."""
        states, attended = (torch.empty(count, size, dtype=torch.bfloat16) for size in (3 * width, width))
        shape = self.heads, width // self.heads
        by_head = states.view(count, 3, *shape), attended.view(count, *shape)
        levels = np.empty((self.heads, 0), np.float32)
        return bits(states), bits(by_head[0]), bits(attended), bits(by_head[1]), levels


@lru_cache(maxsize=64)
def _chunks(runs: tuple[tuple[int, int, int], ...]) -> NDArray[np.int64]:
    """Return the numbers of the inputs that chunks of some ``CHUNK`` tokens begin with, and of inputs in all."""
    starts = packed.starts_of(runs).numpy()
    number = max(round(int(starts[-1]) / CHUNK), 1)
    return np.unique(np.searchsorted(starts, np.linspace(0, starts[-1], number + 1)))


def fits(layer: Any) -> bool:
    """Say whether a block of an encoder like BERT is computed here: by its sizes and its activation."""
    products = linears(layer)
    sizes = all(part.in_features % INNER == 0 and part.out_features % BLOCK == 0 for part in products)
    return sizes and head_size(layer) % BLOCK == 0 and is_gelu(layer.intermediate.intermediate_act_fn)


def block_of(layer: Any) -> Block:
    """Return a block of transformers as one of these."""
    *projections, attended, up, down = linears(layer)
    norms, _ = behind(layer)
    return Block(projections, (attended, up, down), norms, layer.attention.self.num_attention_heads)


def _laid_out(layers: Sequence[nn.Linear]) -> Weights:
    """Return layers of the same input side by side, each output's weights as int8 with the scale of the largest."""
    weight = torch.cat([layer.weight.detach().float() for layer in layers])
    scale = weight.abs().amax(1).clamp_min(1e-30) / 127
    whole = (weight / scale[:, None]).round().to(torch.int8)
    outputs, inputs = whole.shape
    tiles = whole.view(outputs // BLOCK, 2, 16, inputs // INNER, 16, 4).permute(0, 3, 1, 4, 2, 5)
    bias = torch.cat([layer.bias.detach().float() for layer in layers])
    return Weights(tiles.contiguous().view(torch.uint8).numpy(), scale.numpy(), bias.numpy())


def _reals(tensor: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.detach().float().numpy()
    return numbers
