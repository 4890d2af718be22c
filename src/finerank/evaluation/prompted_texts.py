"""Texts that say themselves what stands before them: rows that bring their own prompts, encoded and kept as any others.

A prompt and a text can be written as one text; so ``vectors`` keeps their vectors as it keeps those of bare texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finerank.core.protocols import Encoder, Progress, Side


class PromptedTexts:
    """An encoder of texts that ``written`` has made."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dimension = encoder.dimension

    def fingerprint(self, side: Side) -> str:
        return f"{self.encoder.fingerprint(side)} prompted"

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return vectors [N, D]."""
        parts = list(map(read, texts))
        return self.encoder.encode([text for _, text in parts], side, progress, [prompt for prompt, _ in parts])


def written(first: str, second: str) -> str:
    """Write two texts as one that no other two have.

    >>> written("find: ", "this"), read("6 find: this")
    ('6 find: this', ('find: ', 'this'))
    """
    return f"{len(first)} {first}{second}"


def read(text: str) -> tuple[str, str]:
    """Return the two texts."""
    length, _, both = text.partition(" ")
    return both[: int(length)], both[int(length) :]
