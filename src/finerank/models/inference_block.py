"""An encoder's block for inference on a processor with AMX, in bfloat16: ``inference_kernels``, by all threads."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finerank.models import attention_kernels, inference_kernels
from finerank.models.bert_block import behind, head_size, is_gelu, linears
from finerank.models.chunks import Runs, chunk_size, chunks_of, roomy, with_room
from finerank.models.kernel_arrays import bits, norm_of
from finerank.models.kernel_threads import cut, marks, scratch, share
from finerank.models.layer_kernels import BLOCK, Weights


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

    chunk_size = staticmethod(chunk_size)

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

    def __call__(self, tokens: Tensor, runs: Runs) -> Tensor:
        """Run the block over the real tokens [T, W] of a batch, in bfloat16 (``packed.Layout.runs``)."""
        count, width = tokens.shape
        chunks = chunks_of(runs, self.chunk, torch.get_num_threads())
        tokens, result = roomy(tokens), with_room(count, width)
        given = bits(tokens), self.projections, self.layers, self.norms
        attending = attention_kernels.scratch_size(chunks.longest, width // self.heads)
        size = max(self.kernels.scratch_size(width, self.inner, chunks.most), attending)

        def work(first: int, last: int) -> None:
            rooms = self._rooms(chunks.most, width)
            self.kernels.block(first, last, chunks.inputs, chunks.starts, *given, rooms, bits(result), scratch(size))

        share(self.NAME, cut(work, marks(len(chunks.inputs) - 1)))
        return result

    def _rooms(self, count: int, width: int) -> tuple[NDArray[Any], ...]:
        """Return memory for a chunk of ``count`` tokens (the kernel's ``rooms``)."""
        states, attended = (with_room(count, size) for size in (3 * width, width))
        shape = self.heads, width // self.heads
        by_head = states.view(-1, 3, *shape), attended.view(-1, *shape)
        levels = np.empty((self.heads, 0), np.float32)
        return bits(states), bits(by_head[0]), bits(attended), bits(by_head[1]), levels


def joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Return layers' weights [N, K], and biases [N], side by side, in float32."""
    parts = (torch.cat([getattr(layer, name).detach().float() for layer in layers]) for name in ("weight", "bias"))
    weight, bias = parts
    return weight, bias
