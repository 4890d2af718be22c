"""Attention for training on a CPU: two batched matrix products and a softmax, without attention dropout.

torch's scaled-dot-product attention on a CPU has a slow backward pass, and attention dropout throws it onto its
slowest path. This form was measured 1.3 to 1.4 times faster in a reranker's training step with bf16 autocast
(benchmarks/README.md). Registered with transformers, so that any model that uses its attention registry can take it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from finerank.models.dropout import PooledDropout

NAME = "finerank_bmm"


def bmm_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend; query, key, value [N, H, L, D], additive mask [N, 1, L, L] -> [N, L, H, D]."""
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    return products(query, key, value, scale, attention_mask).transpose(1, 2).contiguous(), None


def products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attend by two batched products; [N, H, L, D] and an additive mask, or None -> [N, H, L, D]."""
    weights = torch.matmul(query * scale, key.transpose(2, 3))
    if mask is not None:
        # float32's lowest would be -inf in bfloat16, and a padding row of a local window, all of it masked, NaN.
        lowest = torch.finfo(weights.dtype).min / 2
        weights = weights + mask.clamp(min=lowest).to(weights.dtype)
    # dtype= keeps autocast from widening the [N, H, L, L] weights to float32, the largest tensor of the layer.
    return torch.matmul(torch.softmax(weights, dim=-1, dtype=weights.dtype), value)


AttentionInterface.register(NAME, bmm_attention)
AttentionMaskInterface.register(NAME, eager_mask)


def prepare_for_training(model: Any, device: torch.device, dropout: float | None) -> None:
    """Switch a transformers model to training attention and set its dropout."""
    use_training_attention(model, device)
    set_dropout(model, dropout)


def use_training_attention(model: Any, device: torch.device) -> bool:
    """Switch ``model`` to the fast training attention where it helps (a CPU, no key/value sharing, no extras).

    Returns:
        Whether it was switched; models outside the attention registry keep their own.
    """
    config = model.config
    plain = getattr(config, "num_key_value_heads", None) in (None, getattr(config, "num_attention_heads", None))
    eligible = device.type == "cpu" and plain and getattr(model, "_supports_attention_backend", False)
    if not eligible or config._attn_implementation != "sdpa" or getattr(config, "is_decoder", False):
        return False
    config._attn_implementation = NAME
    return True


def set_dropout(model: torch.nn.Module, hidden: float | None) -> None:
    """Turn attention dropout off; set hidden dropout to ``hidden`` unless it is None, its masks cut out of a pool.

    Attention dropout costs more CPU time than all matrix products of a step together, and fine-tuning on a few
    thousand groups does not miss it (benchmarks/README.md).
    """
    for module in list(model.modules()):
        attends = "Attention" in type(module).__name__
        if attends and isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - a float on some attention classes only
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Dropout | PooledDropout):
                kept = child.p if hidden is None else hidden
                setattr(module, name, PooledDropout(0.0 if attends else kept))
