"""What keeps one step's gradient small: its length as a whole, or the size of each of its elements.

A norm (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063) shortens the gradient and keeps its direction. A value
cuts the large elements and leaves the small ones, so the direction turns; that is what seed 002's tool does, at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from finerank.core.errors import UsageError
from finerank.core.train_options import TrainOptions
from finerank.core.watch_options import CLAMP, NORM, PLATEAU, VALUE
from finerank.data.console import say

BOUND = "max_grad_norm"


def settle(options: TrainOptions, typed: dict[str, Any]) -> None:
    """Settle --clip and --max_grad_norm; ``typed`` are TrainingArguments, DeepSpeed settled among them.

    Raises:
        UsageError: where DeepSpeed clips, which knows norms only.
    """
    if options.clip == VALUE:
        if typed.get("deepspeed"):
            raise UsageError("DeepSpeed clips norms only, not values", hint="--clip norm, or --use_deepspeed False")
        typed.setdefault(BOUND, CLAMP)
    elif options.clip is None and options.lr_scheduler_type == PLATEAU and BOUND not in typed:
        say(
            "note: all gradients of a step together are clipped to a norm of 1; --clip value cuts each element to "
            f"±{CLAMP} instead, as the tool did that --factor and --patience come from"
        )


def clip(accelerator: Any, parameters: Iterable[Tensor], bound: float, how: str = NORM) -> Any:
    """Clip the gradients of a step, whole ones or shards; return the norm that all had together.

    All processes must call it. ``bound`` is above 0.
    """
    parameters = list(parameters)
    norm = accelerator.clip_grad_norm_(parameters, bound if how == NORM else float("inf"))
    if how == VALUE:
        for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
            _own(gradient).clamp_(-bound, bound)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _own(gradient: Any) -> Tensor:
    """Return the part of a gradient that this process holds, in place."""
    part: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return part
