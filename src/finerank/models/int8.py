"""An encoder's blocks in int8, for inference on a processor with AMX: nothing to calibrate, nothing to export.

The model stays what it was, in bfloat16, and is marked: its blocks are laid out in int8 where they would be in bfloat16
(``fused``), by ``int8_kernels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from finerank.models import inference_block, int8_kernels
from finerank.models.chunks import CHUNK
from finerank.models.inference_block import joined
from finerank.models.int8_kernels import Weights
from finerank.models.layer_kernels import BLOCK


class Block(inference_block.Block):
    """One block of an encoder like BERT in int8: each output's weights with the scale of the largest of them."""

    NAME: ClassVar[str] = "block in int8"
    INNER: ClassVar[int] = 64
    kernels: ClassVar[ModuleType] = int8_kernels

    @staticmethod
    def chunk_size(weights: int) -> int:
        """Return ``CHUNK``: 32 tokens at a time go through the layers, however many go through the attention."""
        return CHUNK

    @staticmethod
    def laid_out(layers: Sequence[nn.Linear]) -> Any:
        """Return layers of the same input side by side as the kernel wants them."""
        weight, bias = joined(layers)
        scale = weight.abs().amax(1).clamp_min(1e-30) / 127
        whole = (weight / scale[:, None]).round().to(torch.int8)
        outputs, inputs = whole.shape
        tiles = whole.view(outputs // BLOCK, 2, 16, inputs // 64, 16, 4).permute(0, 3, 1, 4, 2, 5)
        return Weights(tiles.contiguous().view(torch.uint8).numpy(), scale.numpy(), bias.numpy())
