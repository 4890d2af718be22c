"""Packing: the blocks of an encoder compute no padding.

A padded batch [N, L, W] becomes one row of its real tokens [1, T, W] before the first block and is padded again behind
the last one; all else of the model (embeddings, pooling, heads) stays as it is and sees what it always saw. Inside,
attention takes each run of inputs of equal length as a batch of its own, so that it needs no mask. Batches are sorted
by length, so there are few such runs. The layout travels in the place of the attention mask, not in the model: a block
that is run again by gradient checkpointing finds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from finerank.models.attention import products

NAME = "finerank_packed"
ENCODERS = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
"""Model types whose blocks take nothing beside hidden states that would have to be packed, too (rotary positions)."""
TRAINING_TOKENS = 4096
"""Tokens of a training step that are computed at a time, padding among them."""
TRAINING_STATES = 2**22
"""Numbers of their hidden states, where no padding is computed; not more than dropout has in its pool."""


@dataclass(frozen=True)
class Layout:
    """Where the real tokens of a padded batch stand.

    Attributes:
        shape: inputs N and padded length L.
        index: places of the real tokens among the N * L, input after input [T].
        runs: (first token, inputs, length) of each run of inputs of equal length.
    """

    shape: tuple[int, int]
    index: Tensor
    runs: tuple[tuple[int, int, int], ...]


def install(transformer: Any, device: torch.device) -> bool:
    """Have a transformers model pack its batches, where that is known to be right and fast: an encoder on a CPU.

    Returns:
        Whether it does.
    """
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    config = transformer.config
    blocks = getattr(getattr(base, "encoder", None), "layer", None)
    plain = config.model_type in ENCODERS and not config.is_decoder and config._attn_implementation == "sdpa"
    # States and weights between the blocks would be seen as they are there: packed.
    inside = config.output_hidden_states or config.output_attentions
    if device.type != "cpu" or not plain or inside or blocks is None:
        return False
    config._attn_implementation = NAME
    blocks[0].register_forward_pre_hook(_pack, with_kwargs=True)
    blocks[-1].register_forward_hook(_pad, with_kwargs=True)
    return True


def training_tokens(transformer: Any) -> int:
    """Return how many tokens of a training step are computed at a time.

    All of a step is kept for its way back, in however many parts; but each part has gradients of all weights.
    """
    if transformer.config._attn_implementation != NAME:
        return TRAINING_TOKENS
    return max(TRAINING_STATES // int(transformer.config.hidden_size), TRAINING_TOKENS)


def layout_of(mask: Tensor) -> Layout | None:
    """Return the layout of a padded batch, by its mask [N, L]; None if it has no padding."""
    lengths = mask.sum(1).tolist()
    if min(lengths) == mask.shape[1]:
        return None
    runs, start = [], 0
    for length, inputs in groupby(int(length) for length in lengths):
        count = len(list(inputs))
        runs.append((start, count, length))
        start += count * length
    return Layout((mask.shape[0], mask.shape[1]), mask.flatten().nonzero().squeeze(1), tuple(runs))


@lru_cache(maxsize=64)
def starts_of(runs: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Return where each input of a layout's runs begins, and where the last one ends [N + 1]."""
    lengths = [length for _, count, length in runs for _ in range(count)]
    with torch.inference_mode(False):  # kept, and a tensor of inference mode may not be part of a way back
        return torch.tensor([0, *lengths]).cumsum(0)


def tokens_of(hidden: Tensor, layout: Layout) -> Tensor:
    """Return the real tokens [T, W] of a padded batch [N, L, W]."""
    return hidden.flatten(0, 1).index_select(0, layout.index)


def padded(tokens: Tensor, layout: Layout) -> Tensor:
    """Return the padded batch [N, L, W] of real tokens [T, W]; zeros stand where there are none."""
    _, length = layout.shape
    batch = tokens.new_zeros(*layout.shape, tokens.shape[-1])
    # No view of a flat one: FSDP may not return a view from a module that it has wrapped.
    return batch.index_put((layout.index // length, layout.index % length), tokens)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Layout | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each input; query, key, value [1, H, T, D] (or unpadded [N, H, L, D]) -> [1, T, H, D] (...)."""
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    learns = module.training
    if attention_mask is None:
        return attend(query, key, value, scale, learns=learns).transpose(1, 2).contiguous(), None
    parts = []
    for start, count, length in attention_mask.runs:
        of_query, of_key, of_value = (_run(tensor, start, count, length) for tensor in (query, key, value))
        parts.append(attend(of_query, of_key, of_value, scale, learns=learns).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).unsqueeze(0), None


def _run(tensor: Tensor, start: int, count: int, length: int) -> Tensor:
    """Return a run's part of [1, H, T, D] as a batch [count, H, length, D]."""
    part = tensor[0, :, start : start + count * length]
    return part.view(len(part), count, length, -1).transpose(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, learns: bool) -> Tensor:
    """Attend within inputs of equal length [N, H, L, D]; torch's fused attention has a slow way back on a CPU."""
    if learns:
        return products(query, key, value, scale)
    return nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Layout | None:
    """Return a batch's layout in the place of a mask; called by transformers with the padding mask [N, L]."""
    return None if attention_mask is None else layout_of(attention_mask)


def _pack(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    layout = _found(args, kwargs)
    if layout is None:
        return args, kwargs
    hidden, *others = args
    return (tokens_of(hidden, layout).unsqueeze(0), *others), kwargs


def _pad(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
    layout = _found(args, kwargs)
    return hidden if layout is None else padded(hidden[0], layout)


def _found(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Layout)), None)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _mask)
