"""What the machine can do: its processor and accelerators, which number formats they multiply fast, and how fast."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve")
"""Flags of a processor on which it depends what is fast."""
ROWS, WIDTHS = 4096, (384, 1536)
"""Shape of the product that is timed: a small encoder's feed-forward layer over a batch."""
LARGE_ROWS, LARGE_WIDTHS = 16384, (4096, 4096)
"""The same on an accelerator."""
ROUNDS = 5


@dataclass(frozen=True)
class Device:
    """A device that models can run on.

    Attributes:
        name: as ``--device`` takes it.
        kind: what it is sold as.
        memory: bytes; 0 where it is the machine's own.
        bfloat16: whether it multiplies bfloat16 faster than float32.
    """

    name: str
    kind: str
    memory: int
    bfloat16: bool


def devices() -> list[Device]:
    """Return the devices of this machine, accelerators first."""
    found = []
    for place in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device, facts = torch.device("cuda", place), torch.cuda.get_device_properties(place)
        found.append(Device(str(device), facts.name, facts.total_memory, multiplies_bfloat16_fast(device)))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", 0, False))
    return [*found, Device("cpu", processor(), memory(), multiplies_bfloat16_fast(torch.device("cpu")))]


def processor() -> str:
    """Return the processor's name."""
    return _first_of(CPUINFO, "model name") or platform.processor() or platform.machine()


def flags() -> list[str]:
    """Return the flags of the processor that tell what it multiplies fast; none where the system does not say."""
    words = set((_first_of(CPUINFO, "flags") or _first_of(CPUINFO, "Features")).split())
    return [flag for flag in TELLING if flag in words]


def capabilities() -> dict[str, object]:
    """Return what torch knows of the processor's instructions; nothing where it does not say."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return known


def memory() -> int:
    """Return the machine's memory in bytes; 0 where the system does not say."""
    words = _first_of(MEMINFO, "MemTotal").split()
    if words:
        return int(words[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else 0


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Say whether bfloat16 is faster than float32: CUDA capability 8.0 and up, a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    known = capabilities()
    if not known:
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags())
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Time one matrix product of an encoder's shape; return the median rate in FLOP/s."""
    large = device.type != "cpu"
    rows, (inner, outer) = (LARGE_ROWS, LARGE_WIDTHS) if large else (ROWS, WIDTHS)
    left, right = torch.randn(rows, inner).to(device, dtype), torch.randn(inner, outer).to(device, dtype)
    return 2 * rows * inner * outer / _median_seconds(lambda: torch.matmul(left, right), device)


def copy_rate(device: torch.device, size: int = 2**28) -> float:
    """Time copying ``size`` bytes within the device's memory; return bytes read and written per second."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _median_seconds(lambda: target.copy_(source), device)


def finish(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])  # the first one also sets up


def _first_of(path: Path, field: str) -> str:
    """Return the first value of a field in a file of the system; empty if it is not there."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", errors="replace") as stream:
        found = (line.partition(":")[2].strip() for line in stream if line.split(":")[0].strip() == field)
        return next(found, "")
