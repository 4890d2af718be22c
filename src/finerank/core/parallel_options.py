"""The options of a training over several devices, beyond what a launcher says."""

from __future__ import annotations

from dataclasses import dataclass

from finerank.core.options import option


@dataclass(kw_only=True)
class ParallelOptions:
    """DeepSpeed; FSDP is --fsdp_config, as transformers names it."""

    deepspeed: str | None = option(
        None,
        "DeepSpeed configuration in JSON (ZeRO 0 to 3): spreads optimizer, gradients and weights over the devices; "
        "weights stay float32 unless it says bf16 or fp16 itself",
        metavar="FILE",
        semantic=False,
    )
    use_deepspeed: bool | None = option(
        None,
        "train with the DeepSpeed file; False leaves it aside. Without DeepSpeed installed, what else the file says "
        "(clipping, accumulation, schedule) is used",
        semantic=False,
    )
