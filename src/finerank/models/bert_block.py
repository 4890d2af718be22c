"""A block of an encoder like BERT, as transformers lays it out: its parts, and whether they are what they seem."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.activations import GELUActivation


def linears(layer: Any) -> tuple[Any, ...]:
    """Return queries, keys, values, the attention's output, the feed-forward layers up and down."""
    own = layer.attention.self
    return own.query, own.key, own.value, layer.attention.output.dense, layer.intermediate.dense, layer.output.dense


def behind(layer: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return the norms and the dropouts behind the attention and behind the feed-forward layers."""
    first, second = layer.attention.output, layer.output
    return (first.LayerNorm, second.LayerNorm), (first.dropout, second.dropout)


def plain(layer: Any) -> bool:
    """Say whether a block is one of transformers' own, none of its parts adapted, spread or run twice."""
    if not type(layer).__module__.startswith("transformers.") or (layer.training and layer.gradient_checkpointing):
        return False
    return all(
        type(part) is nn.Linear
        and part.bias is not None
        # FSDP's are of a class of their own, ZeRO's have another shape.
        and type(part.weight) is nn.Parameter
        and part.weight.shape == (part.out_features, part.in_features)
        for part in linears(layer)
    )


def head_size(layer: Any) -> int:
    """Return the numbers of one head of the attention."""
    return int(layer.attention.self.attention_head_size)


def is_gelu(activation: Any) -> bool:
    """Say whether an activation is GELU itself, not what comes near it by tanh."""
    exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    return exact or isinstance(activation, GELUActivation)
