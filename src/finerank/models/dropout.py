"""Dropout on a CPU by masks cut out of one large pool of random bits, instead of drawing a number per element.

torch draws a number for each element, which takes about as long as a layer's matrix product (benchmarks/README.md).
Here 2**23 independent bits are drawn once, and each call takes a run of them that begins at a random place, drawn from
torch's own generator. So dropout is replayed where the generator's state is put back (gradient caching, checkpointing,
a resumed run), and no mask is kept for the way back. Two calls drop alike only if they draw the same place.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

POOL = 2**23
SEED = 20_260
"""The pool is the same in every process and every run; what differs is where it is cut."""


class PooledDropout(nn.Module):
    """Set elements to 0 with probability ``p`` and divide the others by ``1 - p``, while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` [...] with some of them dropped."""
        if values.device.type != "cpu" or self.p >= 1.0:
            return nn.functional.dropout(values, self.p, self.training)
        factors = self.factors(values.numel(), values.dtype)
        return values if factors is None else values * factors.view(values.shape)

    def factors(self, count: int, dtype: torch.dtype) -> Tensor | None:
        """Return what ``count`` elements are multiplied by, 0 or 1 / (1 - p); None where nothing is dropped."""
        if not self.training or self.p == 0.0:
            return None
        if count > POOL // 2:
            return _drawn(count, self.p, dtype)
        start = int(torch.randint(POOL - count, ()))
        return _pool(self.p, dtype)[start : start + count]

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _drawn(count: int, p: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(count, dtype=dtype).bernoulli_(1 - p).div_(1 - p)


@lru_cache(maxsize=4)
def _pool(p: float, dtype: torch.dtype) -> Tensor:
    """Return ``POOL`` factors, drawn independently."""
    # Kept, and a tensor of inference mode may not be part of a way back.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(SEED)
        return _drawn(POOL, p, torch.float32).to(dtype)
