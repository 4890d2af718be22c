"""Keep freed memory: tensors of a few megabytes come and go thousands of times a second.

glibc gives each large block back to the system when it is freed and asks for it anew for the next layer; the kernel
then clears every page again. Keeping the pages took a tenth to a quarter off the CPU time of encoding
(benchmarks/README.md), and it matters more the faster the processor multiplies.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import lru_cache

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 2**31 - 1
MAPPED_FROM_BYTES = 2**30


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks, once per process; return whether it did.

    Nothing is done on other C libraries, or where the user has set glibc's own ``MALLOC_…`` variables.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) and libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
