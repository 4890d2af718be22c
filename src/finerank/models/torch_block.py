"""A block of an encoder like BERT in operations of torch: where there are no tiles, or no kernels for its sizes.

Queries, keys and values come from one product. In inference and in bfloat16, weights are laid out once as the
processor's tiles want them (oneDNN), and bias, activation and residual are added while a product is still in the cache.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from finerank.models import packed
from finerank.models.bert_block import behind, is_gelu, linears
from finerank.models.machine import capabilities

ROWS = 1024
"""Tokens that weights are laid out for; other numbers of them are right, too."""


@lru_cache(maxsize=1)
def lays_out() -> bool:
    """Say whether oneDNN lays out bfloat16 weights here: on x86 processors with AVX-512."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@lru_cache(maxsize=1)
def tiled() -> Any:
    """Return the module that attends by a processor's tiles, where there are such and numba is installed."""
    known = capabilities()
    if not (known.get("amx_bf16") and known.get("avx512_bf16") and torch.cpu._init_amx()):
        return None
    try:
        from finerank.models import tiled_attention
    except (ImportError, RuntimeError):  # numba raises the latter where it can keep what it compiled nowhere
        return None
    return tiled_attention


class LaidOut:
    """A linear layer, or several of the same input side by side, for inference.

    Args:
        layers: their weights are [out, in].
        dtype: number format of the product.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self.weight = _joined([layer.weight.detach() for layer in layers]).to(dtype)
        self.bias = _joined([layer.bias.detach() for layer in layers]).to(dtype)
        self.tiled = dtype == torch.bfloat16 and lays_out()
        if self.tiled:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the layers of ``tokens`` [T, in] -> [T, out]."""
        if self.tiled:
            return _tensor(torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, "none", [], ""))
        return linear(tokens, self.weight, self.bias)

    def activated(self, tokens: Tensor, activation: nn.Module) -> Tensor:
        """Return the activation of the layers [T, out]."""
        if self.tiled and is_gelu(activation):
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
        learns: whether there is a way back, or dropout.
    """

    parts: tuple[LaidOut | Live, ...]
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    dropouts: tuple[nn.Module, nn.Module]
    activation: nn.Module
    heads: int
    learns: bool

    def __call__(self, tokens: Tensor, runs: Sequence[tuple[int, int, int]]) -> Tensor:
        """Run the block over the real tokens [T, W] of a batch (``packed.Layout.runs``)."""
        projected, attended, up, down = self.parts
        width = tokens.shape[-1]
        states = self._attended(projected(tokens).view(-1, 3, self.heads, width // self.heads), runs)
        tokens = _norm(self.norms[0], attended.added(states, tokens, self.dropouts[0]))
        return _norm(self.norms[1], down.added(up.activated(tokens, self.activation), tokens, self.dropouts[1]))

    def _attended(self, states: Tensor, runs: Sequence[tuple[int, int, int]]) -> Tensor:
        """Attend within each input; queries, keys and values [T, 3, H, D] -> [T, H * D]."""
        kernels = tiled() if states.dtype == torch.bfloat16 and states.shape[-1] % 32 == 0 else None
        if kernels is not None:
            return _tensor(kernels.attend(states, packed.starts_of(runs)))
        parts = []
        # Split, not cut out one by one: on the way back each cut would fill the whole with zeros.
        for run, (_, count, length) in zip(torch.split(states, [count * length for _, count, length in runs]), runs):
            query, key, value = run.view(count, length, *run.shape[1:]).permute(2, 0, 3, 1, 4)
            attended = packed.attend(query, key, value, query.shape[-1] ** -0.5, learns=self.learns)
            parts.append(attended.transpose(1, 2).flatten(0, 1).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def block_of(layer: Any, product: Callable[[Sequence[nn.Linear]], LaidOut | Live], learns: bool) -> Block:
    """Return a block of transformers as one of these, its layers as ``product`` makes them."""
    *projections, attended, up, down = linears(layer)
    parts = (product(projections), product([attended]), product([up]), product([down]))
    heads = layer.attention.self.num_attention_heads
    return Block(parts, *behind(layer), layer.intermediate.intermediate_act_fn, heads, learns)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return parts as one; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _norm(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _tensor(value: Any) -> Tensor:
    result: Tensor = value
    return result
