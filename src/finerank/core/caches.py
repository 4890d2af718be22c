"""Where finerank keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_of(kind: str) -> Path:
    """Return ``$FINERANK_CACHE/kind``, or ``~/.cache/finerank/kind``."""
    root = os.environ.get("FINERANK_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "finerank") / kind
