"""Blocks of an encoder on a CPU in fewer and larger operations, the same numbers.

Queries, keys and values come from one product. In inference and in bfloat16, weights are laid out once as the
processor's tiles want them (oneDNN), and bias, activation and residual are added while a product is still in the cache.
What is laid out belongs to the weights as they are: it is made anew when one has changed, since training measures a
model that it changes. Nothing of the model is replaced but the way through its blocks; where a part is not what is
expected (an adapter's layers, another attention, weights that are spread over processes), the model's own way is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from transformers.activations import GELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from finerank.models import packed
from finerank.models.attention import products
from finerank.models.packed import Layout

ROWS = 1024
"""Tokens that weights are laid out for; other numbers of them are right, too."""


def install(transformer: Any, device: torch.device) -> bool:
    """Have a transformers model pack its batches (``packed.install``) and fuse its blocks.

    Returns:
        Whether it does: for encoders like BERT on a CPU.
    """
    if not packed.install(transformer, device):
        return False
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    base.encoder.forward = MethodType(_forward, base.encoder)
    return True


class LaidOut:
    """A linear layer, or several of the same input side by side, for inference.

    Args:
        layers: their weights are [out, in].
        dtype: number format of the product.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self.weight = torch.cat([layer.weight.detach() for layer in layers]).to(dtype)
        self.bias = torch.cat([layer.bias.detach() for layer in layers]).to(dtype)
        self.tiled = dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
        if self.tiled:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the layers of ``tokens`` [T, in] -> [T, out]."""
        if self.tiled:
            return _tensor(torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, "none", [], ""))
        return linear(tokens, self.weight, self.bias)

    def activated(self, tokens: Tensor, activation: nn.Module) -> Tensor:
        """Return the activation of the layers [T, out]."""
        if self.tiled and isinstance(activation, GELUActivation | nn.GELU):
            return _tensor(torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, "gelu", [], "none"))
        return _tensor(activation(self(tokens)))

    def added(self, tokens: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        """Return the layers plus ``residual`` [T, out]; nothing is dropped."""
        if self.tiled:
            pointwise = torch.ops.mkldnn._linear_pointwise.binary
            return _tensor(pointwise(tokens, residual, self.weight, self.bias, "add"))
        return self(tokens).add_(residual)


class Live:
    """The same for training: the layers' own weights, and what gradients they get."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = layers

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the layers of ``tokens`` [T, in] -> [T, out]."""
        if len(self.layers) == 1:
            return _tensor(self.layers[0](tokens))
        weight = torch.cat([layer.weight for layer in self.layers])
        return linear(tokens, weight, torch.cat([layer.bias for layer in self.layers]))

    def activated(self, tokens: Tensor, activation: nn.Module) -> Tensor:
        """Return the activation of the layers [T, out]."""
        return _tensor(activation(self(tokens)))

    def added(self, tokens: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        """Return the layers, some of their outputs dropped, plus ``residual`` [T, out]."""
        return _tensor(dropout(self(tokens))) + residual


@dataclass(frozen=True)
class Block:
    """One block, as transformers lays out BERT's: attention, then the feed-forward layers, a norm behind each.

    Attributes:
        parts: queries, keys and values in one; the attention's output; the feed-forward layers up and down.
        norms, dropouts: behind the attention and behind the feed-forward layers.
        heads: of the attention.
        attend: queries, keys and values [N, H, L, D] of inputs of equal length -> [N, H, L, D].
    """

    parts: tuple[LaidOut | Live, ...]
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    dropouts: tuple[nn.Module, nn.Module]
    activation: nn.Module
    heads: int
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, tokens: Tensor, runs: Sequence[tuple[int, int, int]]) -> Tensor:
        """Run the block over the real tokens [T, W] of a batch (``packed.Layout.runs``)."""
        projected, attended, up, down = self.parts
        width = tokens.shape[-1]
        states = self._attended(projected(tokens).unflatten(1, (3, self.heads, width // self.heads)), runs)
        tokens = _norm(self.norms[0], attended.added(states, tokens, self.dropouts[0]))
        return _norm(self.norms[1], down.added(up.activated(tokens, self.activation), tokens, self.dropouts[1]))

    def _attended(self, states: Tensor, runs: Sequence[tuple[int, int, int]]) -> Tensor:
        """Attend within each input; queries, keys and values [T, 3, H, D] -> [T, H * D]."""
        parts = []
        # Split, not cut out one by one: on the way back each cut would fill the whole with zeros.
        for run, (_, count, length) in zip(states.split([count * length for _, count, length in runs]), runs):
            query, key, value = run.unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
            parts.append(self.attend(query, key, value).transpose(1, 2).flatten(0, 1).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def blocks_of(encoder: Any, dtype: torch.dtype) -> list[Block]:
    """Return an encoder's blocks for inference, laid out for its weights as they are."""
    state = dtype, tuple((weight.data_ptr(), _version(weight)) for weight in encoder.parameters())
    with _LOCK:
        known = _LAID_OUT.get(encoder)
        if known is None or known[0] != state:
            blocks = [_block(layer, lambda own: LaidOut(own, dtype), scaled_dot_product_attention)
                      for layer in encoder.layer]  # fmt: skip
            known = _LAID_OUT[encoder] = state, blocks
    return known[1]


_LOCK = Lock()
_LAID_OUT: WeakKeyDictionary[nn.Module, tuple[Any, list[Block]]] = WeakKeyDictionary()


def _forward(self: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Stand in for the encoder's ``forward``: the padded batch [N, L, W] through all blocks."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
    if not _expected(self, hidden_states, attention_mask, dtype):
        return type(self).forward(self, hidden_states, attention_mask, **kwargs)
    count, length, _ = hidden_states.shape
    runs = attention_mask.runs if attention_mask else ((0, count, length),)
    tokens = packed.tokens_of(hidden_states, attention_mask) if attention_mask else hidden_states.flatten(0, 1)
    if torch.is_grad_enabled() or self.training:
        blocks = [_block(layer, Live, _products) for layer in self.layer]
    else:
        blocks, tokens = blocks_of(self, dtype), tokens.to(dtype)
    for block in blocks:
        tokens = block(tokens, runs)
    states = packed.padded(tokens, attention_mask) if attention_mask else tokens.view(hidden_states.shape)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)


def _expected(encoder: Any, hidden: Tensor, mask: Any, dtype: torch.dtype) -> bool:
    """Say whether the blocks are what this file computes, and whole here."""
    known = hidden.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    ours = encoder.config._attn_implementation == packed.NAME and (mask is None or isinstance(mask, Layout))
    return known and ours and all(map(_plain, encoder.layer))


def _plain(layer: Any) -> bool:
    """Say whether a block is one of transformers' own, none of its parts adapted, spread or run twice."""
    if not type(layer).__module__.startswith("transformers.") or (layer.training and layer.gradient_checkpointing):
        return False
    return all(
        type(part) is nn.Linear and part.bias is not None and part.weight.shape == (part.out_features, part.in_features)
        for part in _linears(layer)
    )


def _linears(layer: Any) -> tuple[Any, ...]:
    own = layer.attention.self
    return own.query, own.key, own.value, layer.attention.output.dense, layer.intermediate.dense, layer.output.dense


def _block(layer: Any, product: Callable[[Sequence[nn.Linear]], LaidOut | Live], attend: Any) -> Block:
    *projections, attended, up, down = _linears(layer)
    first, second = layer.attention.output, layer.output
    return Block(
        (product(projections), product([attended]), product([up]), product([down])),
        (first.LayerNorm, second.LayerNorm),
        (first.dropout, second.dropout),
        layer.intermediate.intermediate_act_fn,
        layer.attention.self.num_attention_heads,
        attend,
    )


def _products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return products(query, key, value, query.shape[-1] ** -0.5)


def _norm(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _tensor(value: Any) -> Tensor:
    result: Tensor = value
    return result
