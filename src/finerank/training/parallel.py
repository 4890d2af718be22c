"""How a run is spread over devices, by its options: DeepSpeed, FSDP, or plain copies of the model (DDP)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from finerank.core.errors import UsageError, UserError
from finerank.core.options import TRUE_WORDS
from finerank.core.train_options import TrainOptions
from finerank.data.console import launched, say, warn
from finerank.training import zero

FALSE = ("", "False", "false", "0", "no")
FSDP = "--fsdp_config"


def settle(options: TrainOptions, typed: dict[str, Any], *, on_cpu: bool) -> None:
    """Settle --deepspeed, --use_deepspeed, --fsdp and --fsdp_config before anything is loaded.

    Args:
        options: changed where the DeepSpeed file says something that they leave at its default.
        typed: TrainingArguments; gets ``deepspeed``, as a mapping, or ``fsdp``.
        on_cpu: whether the run is on the CPU.

    Raises:
        UserError: for a file that is missing or cannot be used, or what DeepSpeed needs and is not here.
        UsageError: where two options disagree.
    """
    _settle_fsdp(typed, on_cpu=on_cpu)
    if options.use_deepspeed is False or (options.deepspeed is None and not options.use_deepspeed):
        return
    if typed.get("fsdp"):
        raise UsageError("DeepSpeed and FSDP both spread one model: give one of them", hint="--use_deepspeed False")
    path = options.deepspeed or zero.default_file()
    content = zero.read(path)
    stage = zero.stage_of(content)
    for name, value in zero.trainer_settings(content).items():
        _take(options, typed, name, value)
    missing = zero.missing()
    if missing is None:
        typed["deepspeed"] = zero.own_part(content)
    elif options.use_deepspeed:
        lost = f"; ZeRO stage {stage} spreads nothing then" if stage else ""
        warn(f"{missing}: only what else {path} says is used{lost} ({zero.INSTALL})")
    else:
        raise UserError(missing, where=f"--deepspeed {path}", hint=zero.INSTALL)


def _settle_fsdp(typed: dict[str, Any], *, on_cpu: bool) -> None:
    if str(typed.get("fsdp", "")) in FALSE and "fsdp" in typed:
        typed.pop("fsdp")
        typed.pop("fsdp_config", None)
    if "fsdp_config" not in typed and "fsdp" not in typed:
        return
    if str(typed.get("fsdp", True)).lower() in TRUE_WORDS:
        typed["fsdp"] = True
    typed["fsdp_config"] = config = _fsdp_config(typed.get("fsdp_config"))
    if on_cpu and str(config.get("version", 2)) != "2":
        raise UserError(f"FSDP on a CPU is version 2, and the file asks for version {config['version']}", where=FSDP)
    if on_cpu and torch.accelerator.is_available():
        raise UserError(
            "FSDP shards over this machine's GPUs, and the training is on its CPU", hint="leave --device cpu out"
        )
    if not launched():
        raise UsageError(
            "FSDP spreads a model over several processes", hint="torchrun --nproc_per_node N -m finerank …"
        )
    # accelerate's own way to do it runs layers again with another dropout.
    if str(config.pop("activation_checkpointing", False)) not in FALSE:
        typed["gradient_checkpointing"] = True


def _fsdp_config(given: Any) -> dict[str, Any]:
    """Return the FSDP settings, without the ``fsdp_`` that their names may begin with.

    Raises:
        UserError: if there is no such file, or it is no JSON object.
    """
    content = zero.read_object(given, FSDP) if isinstance(given, str) else dict(given or {})
    return {name.removeprefix("fsdp_"): value for name, value in content.items()}


def _take(options: TrainOptions, typed: dict[str, Any], name: str, value: Any) -> None:
    """Take a value from the DeepSpeed file, unless the command line says another one."""
    defaults = {item.name: item.default for item in dataclasses.fields(options)}
    if name not in defaults:
        given = typed.setdefault(name, value)
    else:
        if getattr(options, name) == defaults[name] != value:
            setattr(options, name, value)
            say(f"note: --{name} {value}, as the DeepSpeed file says")
        given = getattr(options, name)
    if given != value:
        raise UsageError(
            f"--{name} is {given}, but the DeepSpeed file says {value}",
            hint='write "auto" there, or leave the flag out',
        )
