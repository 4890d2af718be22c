"""A DeepSpeed file: read, settled with the options, and brought to what this machine can do.

What the file says of clipping, accumulation, learning rate, optimizer and schedule goes to the trainer, which has them
all itself; DeepSpeed gets what is its own: the spreading over devices (ZeRO). So a run's arithmetic is the same with
DeepSpeed and without it, and no optimizer has to be compiled first.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finerank.core.errors import UsageError, UserError

AUTO = "auto"
INSTALL = "pip install deepspeed"
DEFAULT_NAMES = ("ds_stage0.json", "ds_config.json", "deepspeed.json")
"""Where --use_deepspeed without a file looks, in the folder that the command is given in."""

SWITCH = "ACCELERATE_USE_DEEPSPEED"
"""transformers sets it; every later training of the process would be DeepSpeed's."""
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
_set_here: set[str] = set()

SCHEDULES = {
    "WarmupDecayLR": "linear",
    "WarmupLR": "constant_with_warmup",
    "WarmupCosineLR": "cosine",
}
"""DeepSpeed's schedule -> the trainer's; its other ones have no counterpart."""

PLACES = {
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.weight_decay": "weight_decay",
    "optimizer.params.eps": "adam_epsilon",
    "scheduler.params.warmup_max_lr": "learning_rate",
    "scheduler.params.warmup_num_steps": "warmup_steps",
}
"""Place in the file -> name of the same thing in transformers.TrainingArguments."""

OPTIMIZERS = ("Adam", "AdamW")


def read(path: str) -> dict[str, Any]:
    """Return a DeepSpeed file.

    Raises:
        UserError: if there is none, or it is no JSON object.
    """
    return read_object(path, "--deepspeed")


def read_object(path: str, flag: str) -> dict[str, Any]:
    """Return the JSON object in a file that ``flag`` names.

    Raises:
        UserError: if there is none, or it is no JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{flag} {path}: there is no such file")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{flag} {path} must hold a JSON object, not a {type(content).__name__}")
    return content


def default_file() -> str:
    """Return the file that a bare --use_deepspeed means.

    Raises:
        UsageError: if there is none.
    """
    found = next((name for name in DEFAULT_NAMES if Path(name).is_file()), None)
    if found is None:
        raise UsageError("--use_deepspeed needs a configuration file", hint="--use_deepspeed --deepspeed FILE.json")
    return found


def stage_of(content: Mapping[str, Any]) -> int:
    """Return the ZeRO stage.

    Raises:
        UserError: if it is none of 0, 1, 2, 3.
    """
    stage = _at(content, "zero_optimization.stage")
    if stage not in (None, 0, 1, 2, 3):
        raise UserError(f"the DeepSpeed file asks for ZeRO stage {stage!r}; there are 0, 1, 2 and 3")
    return int(stage or 0)


def trainer_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file says of things that the trainer has itself, by TrainingArguments' names; not its ``auto``.

    Raises:
        UserError: for an optimizer or a schedule that the trainer has not.
    """
    found = [(name, _at(content, place)) for place, name in PLACES.items()]
    settings = {name: value for name, value in found if value not in (None, AUTO)}
    betas = _at(content, "optimizer.params.betas")
    if isinstance(betas, list) and len(betas) == 2:
        settings |= {"adam_beta1": betas[0], "adam_beta2": betas[1]}
    optimizer = _at(content, "optimizer.type")
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise UserError(
            f"the DeepSpeed file asks for the optimizer {optimizer}; with finerank it is AdamW",
            hint='take "optimizer" out of the file; --optim chooses one of transformers\' own',
        )
    schedule = _at(content, "scheduler.type")
    if schedule is not None and schedule not in SCHEDULES:
        raise UserError(
            f"the DeepSpeed file asks for the schedule {schedule}; known: {', '.join(SCHEDULES)}",
            hint='take "scheduler" out of the file; --lr_scheduler_type chooses one',
        )
    return settings | ({"lr_scheduler_type": SCHEDULES[schedule]} if schedule else {})


def own_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left for DeepSpeed: all but what the trainer does itself, the rest in agreement with it."""
    part: dict[str, Any] = json.loads(json.dumps(content))
    part.pop("optimizer", None)
    part.pop("scheduler", None)
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    part |= dict.fromkeys(sizes, AUTO)
    zero = part.setdefault("zero_optimization", {})
    zero.setdefault("stage", 0)
    if zero["stage"] == 3:
        # Or nothing could be measured or saved.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    _drop_automatic(zero)
    if "offload_optimizer" in zero:
        # The trainer's own AdamW runs where DeepSpeed keeps the weights.
        part["zero_force_ds_cpu_optimizer"] = False
    return part


def number_format(part: dict[str, Any], dtype: str, *, on_cpu: bool) -> str | None:
    """Settle which number format DeepSpeed computes in; ``part`` is changed.

    A format that the file asks for outright (``"enabled": true``) is DeepSpeed's own: weights in 16 bits, float32
    copies of them in the optimizer. Else weights stay float32 and only products are in ``dtype`` (autocast), as
    without DeepSpeed.

    Args:
        dtype: float32, bfloat16 or float16: of the products, as --dtype and this machine have it.

    Returns:
        What has to be said aloud, or None.
    """
    asked = [name for name in ("fp16", "bf16") if _at(part, f"{name}.enabled") is True]
    said = None
    if on_cpu and asked == ["fp16"]:
        said, asked = f"float16 is not computed on a CPU: the DeepSpeed file's fp16 becomes {dtype} products", []
    if dtype == "float16" and not asked:
        # Loss scaling is DeepSpeed's affair; with float32 weights it has none.
        asked = ["fp16"]
    for name in ("fp16", "bf16"):
        section = part.setdefault(name, {})
        section["enabled"] = name in asked
        for key in [key for key, value in section.items() if value == AUTO]:
            del section[key]
    part.pop("amp", None)
    products = dtype != "float32" and not asked
    part["torch_autocast"] = {"enabled": products, **({"dtype": dtype} if products else {})}
    return said


def sixteen_bit(part: Mapping[str, Any]) -> bool:
    """Say whether DeepSpeed holds the weights in 16 bits."""
    return any(_at(part, f"{name}.enabled") is True for name in ("fp16", "bf16"))


def missing() -> str | None:
    """Say what of DeepSpeed's needs is not on this machine; None if all is."""
    if find_spec("deepspeed") is None:
        return "deepspeed is not installed"
    if find_spec("torch") is not None and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "DeepSpeed compiles a part of itself and there is no g++"
    if shutil.which("ninja") is None and find_spec("ninja") is None:
        return "DeepSpeed compiles a part of itself and there is no ninja"
    return None


def launch_alone() -> None:
    """Tell DeepSpeed that there is only this process, where no launcher has started it."""
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(ALONE | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    _set_here.update([*ALONE, "MASTER_ADDR", "MASTER_PORT"])


def forget() -> None:
    """Undo what a DeepSpeed run leaves in this process, so that the next training here is a plain one."""
    if os.environ.pop(SWITCH, None) is None:
        return
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in _set_here:
        os.environ.pop(name, None)
    _set_here.clear()


def _drop_automatic(section: dict[str, Any]) -> None:
    """Leave sizes that are "auto" to DeepSpeed's own defaults: transformers would need the model's hidden size."""
    for key in [key for key, value in section.items() if value == AUTO]:
        del section[key]


def _at(content: Mapping[str, Any], place: str) -> Any:
    found: Any = content
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
