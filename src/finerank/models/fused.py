"""Blocks of an encoder on a CPU in fewer and larger operations, the same numbers.

Queries, keys and values come from one product. In inference and in bfloat16, weights are laid out once as the
processor's tiles want them (oneDNN), and bias, activation and residual are added while a product is still in the cache.
What is laid out belongs to the weights as they are: it is kept for a model that was loaded for inference, and as long
as ``steady`` says for one that may be trained. Nothing of the model is replaced but the way through its blocks; where a
part is not what is expected (an adapter's layers, another attention, weights that are spread over processes), the
model's own way is taken.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from finerank.core.errors import UserError
from finerank.models import packed
from finerank.models.bert_block import behind, is_gelu, linears, plain
from finerank.models.load import INT8
from finerank.models.machine import capabilities
from finerank.models.packed import Layout

ROWS = 1024
"""Tokens that weights are laid out for; other numbers of them are right, too."""


def install(transformer: Any, device: torch.device) -> bool:
    """Have a transformers model pack its batches (``packed.install``) and fuse its blocks.

    States of single blocks cannot be had from it any more, where a call asks for them.

    Returns:
        Whether it does: for encoders like BERT on a CPU.
    """
    if not packed.install(transformer, device):
        return False
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    # Not a bound method: that would be looked up by its name where a copy is unpickled.
    base.encoder.forward = partial(_forward, base.encoder)
    return True


def use_int8(transformer: Any) -> None:
    """Have the blocks of a model that ``install`` has taken computed in int8, in inference, from now on.

    Raises:
        UserError: if they cannot be: by this processor, or in this model.
    """
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    encoder = getattr(base, "encoder", None)
    hint = "finerank export --int8 makes a graph for OpenVINO, for other models and processors, too"
    if not (capabilities().get("amx_int8") and _tiled()):
        raise UserError("--dtype int8 needs a CPU with AMX, and numba", hint=hint)
    from finerank.models.int8 import Block as Int8Block

    if (
        encoder is None
        or not _is_ours(encoder)
        or not all(plain(layer) and Int8Block.fits(layer) for layer in encoder.layer)
    ):
        raise UserError(f"--dtype int8 is for encoders like BERT, not for {type(transformer).__name__}", hint=hint)
    encoder.register_buffer(INT8, torch.ones(1, dtype=torch.int8))  # tells its results from others, too


@lru_cache(maxsize=1)
def _lays_out() -> bool:
    """Say whether oneDNN lays out bfloat16 weights here: on x86 processors with AVX-512."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@lru_cache(maxsize=1)
def _tiled() -> Any:
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
        self.tiled = dtype == torch.bfloat16 and _lays_out()
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
        tiled = _tiled() if states.dtype == torch.bfloat16 and states.shape[-1] % 32 == 0 else None
        if tiled is not None:
            return _tensor(tiled.attend(states, packed.starts_of(runs)))
        parts = []
        # Split, not cut out one by one: on the way back each cut would fill the whole with zeros.
        for run, (_, count, length) in zip(torch.split(states, [count * length for _, count, length in runs]), runs):
            query, key, value = run.view(count, length, *run.shape[1:]).permute(2, 0, 3, 1, 4)
            attended = packed.attend(query, key, value, query.shape[-1] ** -0.5, learns=self.learns)
            parts.append(attended.transpose(1, 2).flatten(0, 1).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def steady(module: nn.Module) -> Iterator[None]:
    """Lay out blocks once for all that is computed within, also of a model that may be trained.

    An optimizer need not leave a trace on the weights that it changes (torch's fused ones do not), so that what was
    laid out before cannot be told from what would be now.
    """
    encoders = [part for part in module.modules() if _is_ours(part)]
    _STEADY.update({encoder: {} for encoder in encoders})
    try:
        yield
    finally:
        for encoder in encoders:
            _STEADY.pop(encoder, None)
            if _may_change(encoder):
                _LAID_OUT.pop(encoder, None)


Blocks = Sequence[Callable[[Any, Any], Any]]
_LOCK = Lock()
Form = tuple[torch.dtype, bool]
"""In which number format blocks are laid out, and whether for a batch of one input."""
_STEADY: WeakKeyDictionary[nn.Module, dict[Form, Blocks]] = WeakKeyDictionary()
"""Encoders that do not change for a while, and their blocks as found then: a look at all their weights takes time."""
_LAID_OUT: WeakKeyDictionary[nn.Module, tuple[Any, dict[Form, Blocks]]] = WeakKeyDictionary()
"""The state of encoders' weights, and blocks of them as they are then."""


def _is_ours(module: nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "func", None) is _forward


def _may_change(encoder: nn.Module) -> bool:
    return any(weight.requires_grad for weight in encoder.parameters())


def _blocks_of(encoder: Any, form: Form, inferring: bool) -> Blocks:
    """Return an encoder's blocks, laid out where its weights stay as they are; none if they are not ours to compute."""
    steady = _STEADY.get(encoder) if inferring else None
    if steady and form in steady:
        return steady[form]
    if not all(map(plain, encoder.layer)):
        return ()
    if not inferring:
        return _learning(encoder, form[0])
    if steady is None and _may_change(encoder):
        return [_block(layer, Live, False) for layer in encoder.layer]
    blocks = _laid_out(encoder, form)
    if steady is not None:
        steady[form] = blocks
    return blocks


def _laid_out(encoder: Any, form: Form) -> Blocks:
    """Return blocks of the weights as they are now."""
    state = tuple((weight.data_ptr(), _version(weight)) for weight in encoder.parameters())
    with _LOCK:
        known = _LAID_OUT.get(encoder)
        if known is None or known[0] != state:
            known = _LAID_OUT[encoder] = state, {}
        if form not in known[1]:
            known[1][form] = _made(encoder, *form)
    return known[1][form]


def _made(encoder: Any, dtype: torch.dtype, alone: bool) -> Blocks:
    if dtype == torch.bfloat16 and hasattr(encoder, INT8):
        from finerank.models.int8 import Block as Int8Block

        return list(map(Int8Block, encoder.layer))
    if dtype == torch.bfloat16 and _tiled() and not alone:
        from finerank.models.inference_block import Block as TiledBlock

        if all(map(TiledBlock.fits, encoder.layer)):
            return list(map(TiledBlock, encoder.layer))
    return [_block(layer, lambda own: LaidOut(own, dtype), False) for layer in encoder.layer]


def _learning(encoder: Any, dtype: torch.dtype) -> Blocks:
    """Return blocks with a way back, or dropout."""
    if dtype == torch.bfloat16 and _tiled() and _lays_out():
        from finerank.models import training_block

        if all(map(training_block.fits, encoder.layer)):
            return [training_block.block_of(layer) for layer in encoder.layer]
    return [_block(layer, Live, True) for layer in encoder.layer]


def _forward(self: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Stand in for the encoder's ``forward``: the padded batch [N, L, W] through all blocks."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
    inferring = not (self.training or torch.is_grad_enabled())
    form = dtype, inferring and _alone(self, hidden_states, dtype)
    blocks = _blocks_of(self, form, inferring) if _expected(self, hidden_states, attention_mask, dtype) else ()
    if not blocks:
        return type(self).forward(self, hidden_states, attention_mask, **kwargs)
    count, length, _ = hidden_states.shape
    runs = attention_mask.runs if attention_mask else ((0, count, length),)
    tokens = packed.tokens_of(hidden_states, attention_mask) if attention_mask else hidden_states.flatten(0, 1)
    tokens = tokens.to(dtype) if inferring else tokens
    for block in blocks:
        tokens = block(tokens, runs)
    tokens = tokens if isinstance(tokens, Tensor) else tokens.exact
    states = packed.padded(tokens, attention_mask) if attention_mask else tokens.view(hidden_states.shape)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)


def _alone(encoder: Any, hidden: Tensor, dtype: torch.dtype) -> bool:
    """Say whether a batch is one input that has all threads: oneDNN shares each product out, the tiles share inputs."""
    threads = torch.get_num_threads()
    return len(hidden) == 1 and threads > 1 and dtype == torch.bfloat16 and not hasattr(encoder, INT8)


def _expected(encoder: Any, hidden: Tensor, mask: Any, dtype: torch.dtype) -> bool:
    """Say whether a batch and its attention are what this file computes."""
    known = hidden.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    ours = encoder.config._attn_implementation == packed.NAME and (mask is None or isinstance(mask, Layout))
    return bool(known and ours)


def _block(layer: Any, product: Callable[[Sequence[nn.Linear]], LaidOut | Live], learns: bool) -> Block:
    *projections, attended, up, down = linears(layer)
    parts = (product(projections), product([attended]), product([up]), product([down]))
    heads = layer.attention.self.num_attention_heads
    return Block(parts, *behind(layer), layer.intermediate.intermediate_act_fn, heads, learns)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return parts as one; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _norm(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _tensor(value: Any) -> Tensor:
    result: Tensor = value
    return result
