"""An encoder's block for training in bfloat16 on a processor with AMX: its own operations of torch, one way and back.

What a step computes beside its products is bound by memory, so that each part here is one round over it where torch
takes several (``training_kernels``); gradients of weights are products by kernels of our own (``gradient_kernels``).
Between blocks travel the residual stream in float32 and the same rounded, which is what products want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.profiler import record_function

from finerank.models import gradient_kernels, packed, training_kernels
from finerank.models.bert_block import behind, head_size, is_gelu, linears
from finerank.models.dropout import PooledDropout
from finerank.models.kernel_arrays import bits, norm_of, reals
from finerank.models.kernel_threads import marks, scratch, share
from finerank.models.tiled_attention import attend
from finerank.models.vectors import LANES

BRAIN = torch.bfloat16
BLOCK = 32
"""What widths are multiples of."""


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

    def __call__(self, tokens: Tensor | Stream, runs: tuple[tuple[int, int, int], ...]) -> Stream:
        """Run the block over the real tokens [T, W] of a batch (``packed.Layout.runs``)."""
        stream = tokens if isinstance(tokens, Stream) else Stream(tokens.float(), tokens.to(BRAIN))
        output, up, down = self.layers
        count, width = stream.exact.shape
        states = _linear(stream.rounded, self.projections).view(count, 3, self.heads, width // self.heads)
        attended = _linear(attend(states, packed.starts_of(runs)), [output])
        stream = _add_norm(attended, stream.exact, self.dropouts[0], self.norms[0])
        activated: Tensor = _Gelu.apply(_linear(stream.rounded, [up]))  # type: ignore[no-untyped-call]
        return _add_norm(_linear(activated, [down]), stream.exact, self.dropouts[1], self.norms[1])


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


def _linear(tokens: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Return layers of the same input side by side: [T, in] -> [T, out], bfloat16."""
    parts = *(layer.weight for layer in layers), *(layer.bias for layer in layers)
    applied: Tensor = _Linear.apply(tokens, *parts)  # type: ignore[no-untyped-call]
    return applied


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *parts: Tensor) -> Tensor:
        weights, biases = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        weight = torch.cat([part.to(BRAIN) for part in weights])
        ctx.save_for_backward(tokens, weight)
        ctx.sizes = [len(part) for part in weights]
        # Where addmm writes the bias first, to be added to, this takes it along.
        applied = torch.ops.mkldnn._linear_pointwise(tokens, weight, torch.cat(biases).to(BRAIN), "none", [], "")
        return cast(Tensor, applied)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_tokens = torch.mm(gradient, weight) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return of_tokens, *[None] * len(ctx.needs_input_grad[1:])
        of_weight, of_bias = _over_tokens(gradient, tokens.contiguous())
        return of_tokens, *torch.split(of_weight, ctx.sizes), *torch.split(of_bias, ctx.sizes)


def _over_tokens(gradient: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a layer's weight [N, K] and bias [N], given that of its result [T, N]."""
    leads = gradient.shape[1] >= tokens.shape[1]
    narrow, wide = (tokens, gradient) if leads else (gradient, tokens)
    product = torch.empty(gradient.shape[1], tokens.shape[1])
    of_wide = torch.empty(wide.shape[1])
    ends = marks(wide.shape[1], BLOCK)
    of_narrow = {first: torch.empty(narrow.shape[1]) for first in ends[:-1]}
    given = bits(narrow), bits(wide), product.numpy()
    size = gradient_kernels.scratch_size(narrow.shape[1])

    def work(first: int, last: int) -> None:
        sums = of_narrow[first].numpy(), of_wide.numpy()
        gradient_kernels.over_tokens(first, last, *given, *sums, scratch(size))

    _share("gradient of weights", work, ends, ())
    return product, of_wide if leads else of_narrow[0]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        activated = torch.empty_like(states)
        arrays = bits(states), bits(activated)
        _share("gelu", training_kernels.activate, marks(states.numel(), LANES), arrays)
        return activated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (states,) = ctx.saved_tensors
        back = torch.empty_like(states)
        arrays = bits(states), bits(gradients[0].contiguous()), bits(back)
        _share("gelu back", training_kernels.activate_back, marks(states.numel(), LANES), arrays)
        return back


def _add_norm(states: Tensor, residual: Tensor, dropout: PooledDropout, norm: nn.LayerNorm) -> Stream:
    """Return the layer norm of states, some of them dropped, plus a residual; both [T, W]."""
    factors = dropout.factors(states.numel(), BRAIN)
    kept = states.new_empty(0) if factors is None else factors
    return Stream(*_AddNorm.apply(states, residual, kept, norm.weight, norm.bias, norm.eps))  # type: ignore[no-untyped-call]


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, residual: Tensor, kept: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        sums, normed, rounded = torch.empty_like(residual), torch.empty_like(residual), torch.empty_like(states)
        ctx.save_for_backward(sums, kept, weight, bias)
        ctx.epsilon = epsilon
        given = bits(states.contiguous()), bits(kept), reals(residual.contiguous()), norm_of(weight, bias, epsilon)
        made = reals(sums), reals(normed), bits(rounded)
        _share("dropout, residual, norm", training_kernels.add_norm, marks(len(states)), (*given, *made))
        return normed, rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, rounded: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, kept, weight, bias = ctx.saved_tensors
        count, width = sums.shape
        back, down = torch.empty_like(sums), torch.empty_like(sums, dtype=BRAIN)
        ends = marks(count)
        parts = {first: torch.empty(2, width) for first in ends[:-1]}
        given = (
            reals(sums), bits(kept), reals(sums.new_empty(0) if above is None else above.contiguous()),
            bits(down.new_empty(0) if rounded is None else rounded.contiguous()), norm_of(weight, bias, ctx.epsilon),
        )  # fmt: skip
        made = reals(back), bits(down)
        size = training_kernels.scratch_size(width)

        def work(first: int, last: int) -> None:
            training_kernels.add_norm_back(first, last, *given, *made, reals(parts[first]), scratch(size))

        _share("dropout, residual, norm back", work, ends, ())
        of_weight, of_bias = torch.stack([*parts.values()]).sum(0)
        return down, back, None, of_weight, of_bias, None


def _share(name: str, kernel: Callable[..., None], ends: Sequence[int], arrays: Sequence[Any]) -> None:
    with record_function(name):  # no operation of torch: a profile would not see it
        share(lambda first, last: kernel(first, last, *arrays), ends)
