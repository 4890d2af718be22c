"""One seed, many named random streams.

A stream is a pure function of the seed and its name, so that a row's draw does not depend on which worker
made it, on what was drawn before, or on whether the run was interrupted.
"""

from __future__ import annotations

import hashlib
import random

DEFAULT_SEED = 42


def stream_seed(seed: int, *name: str | int) -> int:
    """Return a 64-bit seed for the stream called ``name``, e.g. ``stream_seed(42, "groups", epoch, row)``."""
    text = "\x1f".join([str(seed), *map(repr, name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def stream(seed: int, *name: str | int) -> random.Random:
    """Return an independent generator for the stream called ``name``.

    >>> stream(42, "groups", 0, 17).random() == stream(42, "groups", 0, 17).random()
    True
    """
    return random.Random(stream_seed(seed, *name))
