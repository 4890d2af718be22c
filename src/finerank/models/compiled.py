"""Functions that numba compiles and keeps on disk, told apart by the sources of all of them.

numba looks at the file that a function stands in, not at what it calls: after an upgrade, or in a working tree, what
was compiled of other files as they were before would be taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from finerank.core.caches import cache_of

HERE = Path(__file__).parent


def kept(function: Callable[..., Any]) -> Any:
    """Return a function that is compiled when it is first called, if it was not before; it releases the interpreter.

    Raises:
        RuntimeError: where nothing can be kept anywhere.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_folder(before, digest(HERE)))
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    finally:
        config.CACHE_DIR = before


@lru_cache(maxsize=1)
def digest(folder: Path) -> str:
    """Return a digest of the files of a folder that hold code for numba."""
    parts = (
        path.name.encode() + code for path in sorted(folder.glob("*.py")) if b"numba" in (code := path.read_bytes())
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@lru_cache(maxsize=1)
def _folder(asked: str, code: str) -> Path:
    """Return where to keep what is compiled: where asked (NUMBA_CACHE_DIR), beside the code, or in the user's cache."""
    for place in [Path(asked)] if asked else [HERE / "__pycache__", cache_of("kernels")]:
        folder = place / f"kernels-{code}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise RuntimeError("compiled kernels can be kept nowhere")
