"""An encoder's block for inference on a processor with AMX, in bfloat16: ``inference_kernels``, by all threads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import record_function

from finerank.models import attention_kernels, inference_kernels, packed
from finerank.models.bert_block import behind, head_size, is_gelu, linears
from finerank.models.inference_kernels import BLOCK, ROWS, Weights
from finerank.models.kernel_arrays import bits, norm_of
from finerank.models.kernel_threads import marks, scratch, share

CHUNK, LARGE_CHUNK = 256, 1024
"""Tokens, about, that go through a block at a time: where a layer's weights stay in a processor's second cache, and
where they come from afar for each chunk."""
NEAR = 2 << 20
"""Bytes of a layer's weights that stay near."""


class Block:
    """One block of an encoder like BERT.

    Args:
        layer: of transformers.
    """

    NAME: ClassVar[str] = "block in bfloat16"
    INNER: ClassVar[int] = 32
    """What the inner width of a product is a multiple of."""
    kernels: ClassVar[ModuleType] = inference_kernels

    def __init__(self, layer: Any) -> None:
        *projections, attended, up, down = linears(layer)
        self.projections = self.laid_out(projections)
        self.layers = tuple(self.laid_out([part]) for part in (attended, up, down))
        norms, _ = behind(layer)
        self.norms = tuple(norm_of(norm.weight, norm.bias, norm.eps) for norm in norms)
        self.heads = layer.attention.self.num_attention_heads
        self.inner = up.out_features
        self.chunk = self.chunk_size(max(2 * part.weight.numel() for part in (up, down)))

    @staticmethod
    def chunk_size(weights: int) -> int:
        """Return how many tokens, about, go through a block at a time whose largest layer has ``weights`` bytes."""
        return CHUNK if weights <= NEAR else LARGE_CHUNK

    @staticmethod
    def laid_out(layers: Sequence[nn.Linear]) -> Any:
        """Return layers of the same input side by side as the kernel wants them."""
        weight, bias = joined(layers)
        outputs, inputs = weight.shape
        tiles = weight.bfloat16().view(outputs // BLOCK, 2, 16, inputs // 32, 16, 2).permute(0, 3, 1, 4, 2, 5)
        return Weights(bits(tiles.contiguous()), bias.numpy())

    @classmethod
    def fits(cls, layer: Any) -> bool:
        """Say whether a block of an encoder like BERT is computed here: by its sizes and its activation."""
        products = linears(layer)
        sizes = all(part.in_features % cls.INNER == 0 and part.out_features % BLOCK == 0 for part in products)
        return sizes and head_size(layer) % BLOCK == 0 and is_gelu(layer.intermediate.intermediate_act_fn)

    def __call__(self, tokens: Tensor, runs: tuple[tuple[int, int, int], ...]) -> Tensor:
        """Run the block over the real tokens [T, W] of a batch, in bfloat16 (``packed.Layout.runs``)."""
        count, width = tokens.shape
        starts, chunks = packed.starts_of(runs).numpy(), _chunks(runs, self.chunk, torch.get_num_threads())
        tokens, result = _roomy(tokens), tokens.new_empty(count + ROWS, width)[:count]
        given = bits(tokens), self.projections, self.layers, self.norms
        longest = max(length for _, _, length in runs)
        most = int(np.diff(starts[chunks]).max())
        attending = attention_kernels.scratch_size(longest, width // self.heads)
        size = max(self.kernels.scratch_size(width, self.inner, most), attending)

        def work(first: int, last: int) -> None:
            self.kernels.block(
                first, last, chunks, starts, *given, self._rooms(most, width), bits(result), scratch(size)
            )

        with record_function(self.NAME):  # no operation of torch: a profile would not see it
            share(work, marks(len(chunks) - 1))
        return result

    def _rooms(self, count: int, width: int) -> tuple[NDArray[Any], ...]:
        """Return memory for a chunk of ``count`` tokens (the kernel's ``rooms``)."""
        states, attended = (torch.empty(count + ROWS, size, dtype=torch.bfloat16) for size in (3 * width, width))
        shape = self.heads, width // self.heads
        by_head = states.view(-1, 3, *shape), attended.view(-1, *shape)
        levels = np.empty((self.heads, 0), np.float32)
        return bits(states), bits(by_head[0]), bits(attended), bits(by_head[1]), levels


def joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Return layers' weights [N, K], and biases [N], side by side, in float32."""
    parts = (torch.cat([getattr(layer, name).detach().float() for layer in layers]) for name in ("weight", "bias"))
    weight, bias = parts
    return weight, bias


def _roomy(tokens: Tensor) -> Tensor:
    """Return tokens [T, W] with memory for some more behind them (``inference_kernels``)."""
    count, width = tokens.shape
    behind_them = tokens.untyped_storage().nbytes() // tokens.element_size() - tokens.storage_offset() - count * width
    if tokens.is_contiguous() and behind_them >= ROWS * width:
        return tokens
    return tokens.new_empty(count + ROWS, width)[:count].copy_(tokens)


@lru_cache(maxsize=64)
def _chunks(runs: tuple[tuple[int, int, int], ...], size: int, least: int) -> NDArray[np.int64]:
    """Return the numbers of the inputs that chunks of some ``size`` tokens begin with, and of inputs in all."""
    starts = packed.starts_of(runs).numpy()
    number = max(round(int(starts[-1]) / size), least)
    return np.unique(np.searchsorted(starts, np.linspace(0, starts[-1], number + 1)))
