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
        if not self.training or self.p == 0.0:
            return values
        if values.device.type != "cpu" or values.numel() > POOL // 2 or self.p >= 1.0:
            return nn.functional.dropout(values, self.p, True)
        start = int(torch.randint(POOL - values.numel(), ()))
        return values * _pool(self.p, values.dtype)[start : start + values.numel()].view(values.shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"


@lru_cache(maxsize=4)
def _pool(p: float, dtype: torch.dtype) -> Tensor:
    """Return ``POOL`` factors, 0 or 1 / (1 - p), drawn independently."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return (torch.empty(POOL).bernoulli_(1 - p) / (1 - p)).to(dtype)
