"""What a training does to a module as a whole: weights in and out, activations, evaluation mode, spreading."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from finerank.core.errors import UserError
from finerank.training import distributed, zero

WEIGHTS = "model.safetensors"


def spread(args: TrainingArguments) -> bool:
    """Say whether no process holds the whole weights in float32: FSDP, ZeRO 3, or DeepSpeed's own 16-bit formats."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is not None:
        return bool(config.is_zero3() or zero.sixteen_bit(config.config))
    return args.fsdp_plugin_args is not None


def trained_copy(module: nn.Module, args: TrainingArguments) -> nn.Module:
    """Return the module to train: ``module`` itself, or a copy where its weights are about to be spread.

    Then the first process keeps ``module`` whole, for what is measured and saved; the others need none.
    """
    return copy.deepcopy(module) if spread(args) and distributed.rank() == 0 else module


def whole_weights(accelerator: Any, wrapped: nn.Module) -> dict[str, Tensor]:
    """Gather spread weights, in float32, on the first process; all processes must call it."""
    weights: dict[str, Tensor] = accelerator.get_state_dict(wrapped) or {}
    engine = getattr(accelerator, "deepspeed_engine_wrapped", None)
    if engine is None or not zero.sixteen_bit(engine.engine.config):
        return weights
    from deepspeed.utils import safe_get_full_fp32_param

    # Only what is trained has a float32 copy, in the optimizer.
    trained = {name: value for name, value in engine.engine.module.named_parameters() if value.requires_grad}
    masters = {name: safe_get_full_fp32_param(value) for name, value in trained.items()}
    weights |= {name: value for name, value in masters.items() if value is not None and name in weights}
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write a checkpoint's weights; frozen ones are those of the model that a run begins with, and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    frozen = _frozen(module)
    if not frozen:
        save_model(module, str(folder / WEIGHTS))
        return
    trained = {name: tensor.clone() for name, tensor in module.state_dict().items() if name not in frozen}
    save_file(trained, str(folder / WEIGHTS))


def load_weights(module: nn.Module, folder: Path) -> None:
    """Put a checkpoint's weights into ``module``, all of them but frozen ones.

    Raises:
        UserError: if the checkpoint is of another model.
    """
    try:
        if _frozen(module):
            put(module, load_file(str(folder / WEIGHTS)))
        else:
            load_model(module, str(folder / WEIGHTS), strict=True)
    except (RuntimeError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint does not fit the model: {reason}", where=str(folder)) from None


def put(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into ``module``; only frozen ones may be missing.

    Raises:
        RuntimeError: if others are missing, are too many or have another shape.
    """
    missing, unexpected = module.load_state_dict(weights, strict=False)
    wrong = sorted(set(missing) - _frozen(module)) + list(unexpected)
    if wrong:
        raise RuntimeError(f"weights are missing or too many: {', '.join(wrong[:3])}")


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def checkpoint_activations(module: nn.Module, args: TrainingArguments) -> None:
    """Switch gradient checkpointing on where it can be: in the transformers models inside ``module``.

    transformers' trainer would look for it on ``module`` itself.
    """
    if not (args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)):
        return
    keywords = args.gradient_checkpointing_kwargs or getattr(args, "activation_checkpointing_kwargs", None)
    for part in module.modules():
        if not isinstance(part, PreTrainedModel) or not part.supports_gradient_checkpointing:
            continue
        if hasattr(part, "activation_checkpointing_enable"):
            part.activation_checkpointing_enable(activation_checkpointing_kwargs=keywords)
        else:
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)
    args.gradient_checkpointing = args.activation_checkpointing = False


def set_aside_unused(module: nn.Module, micro: list[Mapping[str, Tensor]], device: torch.device) -> list[str]:
    """Take the parameters that no result depends on out of the training, and return their names.

    A pooler that nothing reads, say: its gradient never comes, and processes would wait for it.
    """
    names = [name for name, value in module.named_parameters() if value.requires_grad]
    parameters = [value for value in module.parameters() if value.requires_grad]
    module.to(device)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        results = module([{name: value.to(device) for name, value in part.items()} for part in micro])
        gradients = torch.autograd.grad(results.sum(), parameters, allow_unused=True)
    unused = [place for place, gradient in enumerate(gradients) if gradient is None]
    for place in unused:
        parameters[place].requires_grad_(False)
    return [names[place] for place in unused]


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluate without leaving a trace: dropout off, no gradients, the random state as before."""
    was_training = module.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        module.train(was_training)
