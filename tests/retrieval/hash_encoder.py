"""An Encoder without a model: a text's vector is drawn from its digest, so equal texts have equal vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from finerank.core.protocols import Progress, Side


class HashEncoder:
    """Satisfies core.protocols.Encoder and remembers what it was asked to encode."""

    dimension = 8

    def __init__(self, name: str = "hash") -> None:
        self.name = name
        self.calls: list[list[str]] = []

    @property
    def encoded(self) -> int:
        return sum(map(len, self.calls))

    def fingerprint(self, side: Side) -> str:
        return f"{self.name}-{side}"

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> np.ndarray:
        self.calls.append(list(texts))
        if progress is not None:
            progress(len(texts))
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
