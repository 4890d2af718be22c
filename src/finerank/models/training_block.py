"""An encoder's block for training in bfloat16 on a processor with AMX: one operation of torch, one way and back.

All but the gradients of weights is computed by ``training_kernels``, some inputs at a time; these are products over all
tokens, by ``gradient_kernels``. Between blocks travel the residual stream in float32 and the same rounded, which is
what products want; its gradient is that of the former.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finerank.models import (
    attention_back_kernels,
    attention_kernels,
    gradient_kernels,
    layer_kernels,
    training_kernels,
)
from finerank.models.bert_block import behind, head_size, is_gelu, linears
from finerank.models.chunks import Chunks, Runs, chunk_size, chunks_of, roomy, with_room
from finerank.models.dropout import PooledDropout
from finerank.models.kernel_arrays import bits, norm_of, reals
from finerank.models.kernel_threads import cut, marks, scratch, share
from finerank.models.layer_kernels import BLOCK, Weights
from finerank.models.norm_kernels import Norm
from finerank.models.training_kernels import Kept, Slopes

BRAIN = torch.bfloat16


class Stream(NamedTuple):
    """Tokens [T, W] between two blocks, in float32 and rounded to bfloat16."""

    exact: Tensor
    rounded: Tensor


class Block:
    """One block, as transformers lays out BERT's, with GELU.

    Args:
        projections: queries, keys and values; ``layers``: the attention's output, up, down; ``norms`` and ``dropouts``
            behind the first and the last of these.
        heads: of the attention.
    """

    def __init__(
        self,
        projections: Sequence[nn.Linear],
        layers: Sequence[nn.Linear],
        norms: Sequence[nn.LayerNorm],
        dropouts: Sequence[PooledDropout],
        heads: int,
    ) -> None:
        self.projections, self.layers, self.norms, self.dropouts = projections, layers, norms, dropouts
        self.heads = heads
        self.chunk = chunk_size(max(2 * layer.weight.numel() for layer in layers))

    def __call__(self, tokens: Tensor | Stream, runs: Runs) -> Stream:
        """Run the block over the real tokens [T, W] of a batch (``packed.Layout.runs``)."""
        stream = tokens if isinstance(tokens, Stream) else Stream(tokens.float(), tokens.to(BRAIN))
        every = *self.projections, *self.layers, *self.norms
        parts = [part for each in every for part in (each.weight, each.bias)]
        chunks = chunks_of(runs, self.chunk, torch.get_num_threads())
        return Stream(*_Way.apply(self, chunks, *stream, *parts))  # type: ignore[no-untyped-call]


def fits(layer: Any) -> bool:
    """Say whether a block of an encoder like BERT is computed here: by its sizes, formats, activation and dropout."""
    products, (norms, dropouts) = linears(layer), behind(layer)
    weights = [weight for part in (*products, *norms) for weight in (part.weight, part.bias)]
    exact = all(weight is not None and weight.dtype == torch.float32 for weight in weights)
    sizes = all(size % BLOCK == 0 for part in products for size in part.weight.shape)
    drops = all(type(part) is PooledDropout and part.p < 1 for part in dropouts)
    gelu = is_gelu(layer.intermediate.intermediate_act_fn)
    return exact and sizes and drops and gelu and head_size(layer) % BLOCK == 0


def block_of(layer: Any) -> Block:
    """Return a block of transformers as one of these."""
    *projections, attended, up, down = linears(layer)
    heads = layer.attention.self.num_attention_heads
    return Block(projections, (attended, up, down), *behind(layer), heads)


class _Way(torch.autograd.Function):
    """A block's way; ``parts`` are weights and biases of queries, keys, values, ``layers`` and ``norms``."""

    @staticmethod
    def forward(
        ctx: Any, block: Block, chunks: Chunks, exact: Tensor, rounded: Tensor, *parts: Tensor
    ) -> tuple[Tensor, Tensor]:
        exact, rounded, kept = exact.contiguous(), roomy(rounded), _kept(block, chunks, exact.shape[1])
        result = Stream(torch.empty_like(exact), with_room(*exact.shape))
        laid_out = [_laid_out(parts[first:last:2]) for first, last in _LAYERS]
        share("weights", [piece for layer in laid_out for piece in layer.pieces])
        biases = [torch.cat(parts[first + 1 : last : 2]) for first, last in _LAYERS]
        layers = tuple(Weights(bits(layer.forth), reals(bias)) for layer, bias in zip(laid_out, biases))
        given = reals(exact), bits(rounded), layers, _norms(block, parts), _arrays(kept)
        made = reals(result.exact), bits(result.rounded)
        _by_chunks("block", block, chunks, attention_kernels, training_kernels.block, (*given, *made))
        ctx.block, ctx.chunks = block, chunks
        ctx.save_for_backward(rounded, *parts[-4:], *(layer.back for layer in laid_out), *kept[:-1], *kept.factors)
        ctx.mark_non_differentiable(result.rounded)  # its gradient is that of the exact one
        return result.exact, result.rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        block, chunks = ctx.block, ctx.chunks
        rounded, *others = ctx.saved_tensors
        norms, weights, kept = others[:4], others[4:8], Kept._make((*others[8:-2], tuple(others[-2:])))
        above = gradients[0].contiguous()
        back, slopes, width = torch.empty_like(above), _slopes(kept), above.shape[1]
        of_norms = torch.empty(len(chunks.inputs) - 1, 2, 2, width)
        given = reals(above), tuple(map(bits, weights)), _norms(block, norms), _arrays(kept)
        made = _arrays(slopes), reals(back), reals(of_norms)
        _by_chunks("block back", block, chunks, attention_back_kernels, training_kernels.block_back, (*given, *made))
        of_parts = _of_parts(slopes, kept, rounded, ctx.needs_input_grad[4:])
        return None, None, back, None, *of_parts, *of_norms.sum(0).flatten(0, 1)


_LAYERS = (0, 6), (6, 8), (8, 10), (10, 12)
"""Which parts are those of queries, keys and values side by side, of the attention's output, up and down."""


def _kept(block: Block, chunks: Chunks, width: int) -> Kept:
    """Return memory for what a block keeps of [T, W], and dropout's factors."""
    count, tiled, inner = int(chunks.starts[-1]), int(chunks.places[-1]), block.layers[1].out_features
    factors = (dropout.factors(count * width, BRAIN) for dropout in block.dropouts)
    return Kept(
        states=with_room(count, 3 * width).view(count, 3, block.heads, -1),
        attended=with_room(count, width).view(count, block.heads, -1),
        levels=torch.empty(block.heads, count),
        sums=torch.empty(count, width),
        normed=torch.empty(tiled, width, dtype=BRAIN),
        wide=torch.empty(tiled, inner, dtype=BRAIN),
        activated=torch.empty(tiled, inner, dtype=BRAIN),
        last=torch.empty(count, width),
        factors=tuple(torch.empty(0, dtype=BRAIN) if of is None else of for of in factors),
    )


def _slopes(kept: Kept) -> Slopes:
    """Return memory for the gradients of what a block's layers gave."""
    like = kept.states, kept.attended, kept.attended
    states, heads, attended = (with_room(len(of), of[0].numel()).view(of.shape) for of in like)
    return Slopes(states, heads, attended, torch.empty_like(kept.wide), torch.empty_like(kept.normed))


def _of_parts(slopes: Slopes, kept: Kept, rounded: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of layers' weights and biases, of those that are needed."""
    factors = (
        (slopes.states.flatten(1), rounded, False),
        (slopes.attended.flatten(1), kept.attended.flatten(1), False),
        (slopes.wide, kept.normed, True),
        (slopes.last, kept.activated, True),
    )
    products = [
        _over_tokens(*each) if any(needed[first:last]) else None for each, (first, last) in zip(factors, _LAYERS)
    ]
    # Largest first, so that no thread is left with much when the others have no more to do.
    by_size = sorted(filter(None, products), key=lambda product: -product.weight.numel())
    share("gradient of weights", [piece for product in by_size for piece in product.pieces])
    found: list[Tensor | None] = []
    for product, (first, last) in zip(products, _LAYERS):
        if product is None:
            found += [None] * (last - first)
        else:
            each = (of.chunk((last - first) // 2) for of in (product.weight, product.bias))
            found += [of for pair in zip(*each) for of in pair]
    return found


def _arrays(tensors: Kept | Slopes) -> Any:
    """Return the same on arrays, as kernels want them."""
    made = (tuple(map(bits, of)) if isinstance(of, tuple) else _array(of) for of in tensors)
    return type(tensors)(*made)


def _array(tensor: Tensor) -> Any:
    return bits(tensor) if tensor.dtype == BRAIN else reals(tensor)


def _norms(block: Block, parts: Sequence[Tensor]) -> tuple[Norm, Norm]:
    """Return the block's norms, whose weights and biases are the last four parts."""
    weight, bias, last_weight, last_bias = parts[-4:]
    first, last = block.norms
    return norm_of(weight, bias, first.eps), norm_of(last_weight, last_bias, last.eps)


class _LaidOut(NamedTuple):
    """A layer's weight as kernels want it, for both ways, and what is to be called for it to be there."""

    forth: Tensor
    back: Tensor
    pieces: list[Callable[[], None]]


def _laid_out(weights: Sequence[Tensor]) -> _LaidOut:
    """Return the weights of layers that stand side by side as kernels want them."""
    steps, blocks = weights[0].shape[1] // BLOCK, len(weights) * len(weights[0]) // BLOCK
    forth, back = (torch.empty(*size, BLOCK * BLOCK, dtype=BRAIN) for size in ((blocks, steps), (steps, blocks)))
    given = tuple(reals(weight.contiguous()) for weight in weights), bits(forth), bits(back)
    room = layer_kernels.LAYING_OUT
    work = cut(lambda first, last: layer_kernels.lay_out(first, last, *given, scratch(room)), marks(blocks))
    return _LaidOut(forth, back, work)


def _by_chunks(
    name: str, block: Block, chunks: Chunks, attention: ModuleType, kernel: Any, arrays: Sequence[Any]
) -> None:
    """Run a kernel, which calls those of ``attention``, chunk by chunk."""
    width, borders = block.layers[0].out_features, (chunks.inputs, chunks.starts, chunks.places)
    attending = attention.scratch_size(chunks.longest, width // block.heads)
    size = max(training_kernels.scratch_size(width, chunks.most), attending)
    ends = range(len(chunks.inputs))
    share(name, cut(lambda first, last: kernel(first, last, *borders, *arrays, scratch(size)), ends))


class _Product(NamedTuple):
    """The gradients of a layer's weight [N, K] and bias [N], and what is to be called for them to be there."""

    weight: Tensor
    bias: Tensor
    pieces: list[Callable[[], None]]


def _over_tokens(gradient: Tensor, tokens: Tensor, tiled: bool) -> _Product:
    """Return the gradients of a layer's weight and bias, given that of its result [T, N].

    Args:
        tiled: both lie as tiles (``layer_kernels.as_tiles``), T a multiple of 32.
    """
    leads = gradient.shape[1] >= tokens.shape[1]
    narrow, wide = (tokens, gradient) if leads else (gradient, tokens)
    product = torch.empty(gradient.shape[1], tokens.shape[1])
    of_wide = torch.empty(wide.shape[1])
    ends = marks(wide.shape[1], BLOCK)
    of_narrow = {first: torch.empty(narrow.shape[1]) for first in ends[:-1]}
    given = bits(narrow), bits(wide), tiled, product.numpy()
    size = gradient_kernels.scratch_size(narrow.shape[1])

    def work(first: int, last: int) -> None:
        sums = of_narrow[first].numpy(), of_wide.numpy()
        gradient_kernels.over_tokens(first, last, *given, *sums, scratch(size))

    return _Product(product, of_wide if leads else of_narrow[0], cut(work, ends))
