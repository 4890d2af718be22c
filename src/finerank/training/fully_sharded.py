"""FSDP: weights, gradients and optimizer in shards, one for each process (torch's ``fully_shard``, "FSDP2").

accelerate does the sharding. It enters FSDP on accelerators only, though ``fully_shard`` works on a CPU through gloo as
well; so :func:`enter` takes it there. Docs: docs/adr/0014-fsdp-on-a-cpu.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from finerank.core.errors import UserError

SWITCHES = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
"""accelerate and transformers set them; every later training of the process would be FSDP's."""
SECOND_COPY = "pytorch_model_fsdp.bin"
"""The weights once more, as transformers adds them to a checkpoint that has them already."""
_without: list[DistributedType] = []
"""What accelerate calls these processes without FSDP, while a sharded training is under way."""
NAMES, BY_LAYER = "transformer_cls_names_to_wrap", "TRANSFORMER_BASED_WRAP"


def complete(args: TrainingArguments, module: nn.Module, dtype: torch.dtype | None) -> None:
    """Say what FSDP is to shard of ``module``, and that it is to convert nothing; no effect without FSDP.

    Weights, gradients and their sums stay float32, and products are in ``dtype`` (autocast; None for float32), as
    without FSDP.

    Raises:
        UserError: for a layer class that is not in the model.
    """
    settings = args.fsdp_plugin_args
    if settings is None:
        return
    _without[:] = [args.distributed_state.distributed_type]
    if settings["fsdp_version"] == 2:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        settings["mixed_precision_policy"] = MixedPrecisionPolicy()
    if args.device.type == "cpu":
        # There is no other memory to move to.
        settings.pop("cpu_offload", None)
    if settings["auto_wrap_policy"] == BY_LAYER:
        settings[NAMES] = _layers(module, settings.get(NAMES))
    if dtype is not None:
        _in_format(module, args.device, dtype)


def _in_format(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Have ``module`` compute its products in ``dtype`` and return float32, as accelerate does it without FSDP."""
    plain: Callable[..., Tensor] = module.forward

    def forward(*inputs: Any, **keywords: Any) -> Tensor:
        # A cache of converted weights would keep what a shard's owner has let go of.
        with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
            return plain(*inputs, **keywords).float()

    module.forward = forward


def _layers(module: nn.Module, asked: str | None) -> list[str]:
    """Return the classes whose instances become shards of their own: those asked for, else the model's layers."""
    here = {type(part).__name__ for part in module.modules()}
    if asked is None:
        models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
        return sorted(here & {name for part in models for name in part._no_split_modules or ()})
    names = asked.split(",")
    missing = [name for name in names if name not in here]
    if missing:
        raise UserError(
            f"--fsdp_config: there is no {missing[0]} in the model to shard by",
            hint='leave "transformer_layer_cls_to_wrap" out, and the model\'s own layers are taken',
        )
    return names


def enter(accelerator: Any, args: TrainingArguments) -> bool:
    """Have accelerate shard on a CPU too, where it has left FSDP out; say whether it shards now."""
    state = accelerator.state
    if args.fsdp_plugin_args is not None and state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
        _settle_on(DistributedType.FSDP)
    return bool(state.distributed_type == DistributedType.FSDP)


def forget() -> None:
    """Undo what a sharded training leaves in this process, so that the next one here is a plain one."""
    for name in SWITCHES:
        os.environ.pop(name, None)
    if _without:
        _settle_on(_without.pop())
        AcceleratorState._reset_state()


def _settle_on(kind: DistributedType) -> None:
    """Tell accelerate how its processes work together: it looks that up in two places."""
    PartialState._shared_state["distributed_type"] = kind
    AcceleratorState._shared_state["distributed_type"] = kind


def drop_second_copy(folder: Path) -> None:
    """Take the second copy of the weights out of a checkpoint that has been written."""
    (folder / SECOND_COPY).unlink(missing_ok=True)
