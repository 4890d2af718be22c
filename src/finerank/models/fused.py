"""Blocks of an encoder on a CPU in fewer and larger operations, the same numbers.

Which blocks: by the processor's tiles (``inference_block``, ``int8``, ``training_block``), else of torch's operations
(``torch_block``), and the last one for first tokens alone where nobody reads others (``first_token``). What is laid out
belongs to the weights as they are: it is kept for a model that was loaded for inference, and as long as ``steady`` says
for one that may be trained. Nothing of the model is replaced but the way through its blocks; where a part is not what
is expected (an adapter's layers, another attention, weights that are spread over processes), the model's own way is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from finerank.core.errors import UserError
from finerank.models import first_token, packed, torch_block
from finerank.models.bert_block import plain
from finerank.models.load import INT8
from finerank.models.machine import capabilities
from finerank.models.packed import Layout
from finerank.models.torch_block import LaidOut, Live, block_of


def install(transformer: Any, device: torch.device, *, first_alone: bool = False) -> bool:
    """Have a transformers model pack its batches (``packed.install``) and fuse its blocks.

    States of single blocks cannot be had from it any more, where a call asks for them.

    Args:
        first_alone: of the last block nobody reads more than first tokens; its states may be [N, 1, W].

    Returns:
        Whether it does: for encoders like BERT on a CPU.
    """
    if not packed.install(transformer, device):
        return False
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    # Not a bound method: that would be looked up by its name where a copy is unpickled.
    base.encoder.forward = partial(_forward, base.encoder, first_alone=first_alone)
    return True


def use_int8(transformer: Any) -> None:
    """Have the blocks of a model that ``install`` has taken computed in int8, in inference, from now on.

    Raises:
        UserError: if they cannot be: by this processor, or in this model.
    """
    base = getattr(transformer, transformer.base_model_prefix, transformer)
    encoder = getattr(base, "encoder", None)
    hint = "finerank export --int8 makes a graph for OpenVINO, for other models and processors, too"
    if not (capabilities().get("amx_int8") and torch_block.tiled()):
        raise UserError("--dtype int8 needs a CPU with AMX, and numba", hint=hint)
    from finerank.models.int8 import Block as Int8Block

    if (
        encoder is None
        or not _is_ours(encoder)
        or not all(plain(layer) and Int8Block.fits(layer) for layer in encoder.layer)
    ):
        raise UserError(f"--dtype int8 is for encoders like BERT, not for {type(transformer).__name__}", hint=hint)
    encoder.register_buffer(INT8, torch.ones(1, dtype=torch.int8))  # tells its results from others, too


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


def _whole(encoder: Any) -> Sequence[Any]:
    """Return the layers of an encoder that are computed for all tokens: all, or all but the last one."""
    layers = list(encoder.layer)
    return layers[:-1] if encoder.forward.keywords["first_alone"] else layers


def _blocks_of(encoder: Any, form: Form, inferring: bool) -> Blocks | None:
    """Return an encoder's blocks, of the layers that are ``_whole``, laid out where its weights stay as they are.

    Returns:
        None if they are not ours to compute.
    """
    steady = _STEADY.get(encoder) if inferring else None
    if steady and form in steady:
        return steady[form]
    if not all(map(plain, encoder.layer)):
        return None
    if not inferring:
        return _learning(encoder, form[0])
    if steady is None and _may_change(encoder):
        return [block_of(layer, Live, False) for layer in _whole(encoder)]
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
    layers = _whole(encoder)
    if dtype == torch.bfloat16 and hasattr(encoder, INT8):
        from finerank.models.int8 import Block as Int8Block

        return list(map(Int8Block, layers))
    if dtype == torch.bfloat16 and torch_block.tiled() and not alone:
        from finerank.models.inference_block import Block as TiledBlock

        if all(map(TiledBlock.fits, layers)):
            return list(map(TiledBlock, layers))
    return [block_of(layer, lambda own: LaidOut(own, dtype), False) for layer in layers]


def _learning(encoder: Any, dtype: torch.dtype) -> Blocks:
    """Return blocks with a way back, or dropout."""
    layers = _whole(encoder)
    if dtype == torch.bfloat16 and torch_block.tiled() and torch_block.lays_out():
        from finerank.models import training_block

        if all(map(training_block.fits, layers)):
            return [training_block.block_of(layer) for layer in layers]
    return [block_of(layer, Live, True) for layer in layers]


def _forward(self: Any, hidden_states: Tensor, attention_mask: Any = None, *, first_alone: bool, **kwargs: Any) -> Any:
    """Stand in for the encoder's ``forward``: the padded batch [N, L, W] through all blocks.

    Returns:
        The states [N, L, W], or those of the first tokens [N, 1, W].
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
    inferring = not (self.training or torch.is_grad_enabled())
    form = dtype, inferring and _alone(self, hidden_states, dtype)
    blocks = _blocks_of(self, form, inferring) if _expected(self, hidden_states, attention_mask, dtype) else None
    if blocks is None:
        return type(self).forward(self, hidden_states, attention_mask, **kwargs)
    count, length, _ = hidden_states.shape
    runs = attention_mask.runs if attention_mask else ((0, count, length),)
    tokens = packed.tokens_of(hidden_states, attention_mask) if attention_mask else hidden_states.flatten(0, 1)
    tokens = tokens.to(dtype) if inferring else tokens
    for block in blocks:
        tokens = block(tokens, runs)
    tokens = tokens if isinstance(tokens, Tensor) else tokens.exact
    states = packed.padded(tokens, attention_mask) if attention_mask else tokens.view(hidden_states.shape)
    if first_alone:
        states = first_token.of_last_block(self.layer[-1], states, attention_mask).unsqueeze(1)
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


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
