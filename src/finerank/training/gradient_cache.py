"""Gradient caching: the exact gradient of a whole step, in the memory of one micro-batch.

Every micro-batch is run once without keeping activations; the loss of the whole step gives the gradient of each
result; then every micro-batch is run again, under the same dropout, and that gradient is sent through it. Source:
GradCache, Gao et al. 2021 (https://arxiv.org/abs/2101.06983); there for embeddings, here for a reranker's scores too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

Micro = dict[str, Tensor]


def cached_step(
    model: Callable[[list[Micro]], Tensor],
    micro: Sequence[Micro],
    loss: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], None],
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    unsynchronised: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Add the gradient of a step's loss to the parameters; return the loss.

    Args:
        model: micro-batches -> results, [N] or [N, D].
        loss: results of the whole step, in the order of ``micro`` -> scalar.
        backward: takes a scalar backward (and scales it, where the number format asks for it).
        autocast: context of the forward passes and the loss.
        unsynchronised: context in which gradients are not yet shared between processes; left for the last one.
    """
    states, results = [], []
    with torch.no_grad(), autocast():
        for features in micro:
            states.append(_random_state())
            results.append(model([features]))
    after = _random_state()
    whole = torch.cat(results).detach().requires_grad_()
    with autocast():
        value = loss(whole)
    (gradient,) = torch.autograd.grad(value, whole)
    parts = torch.split(gradient, [len(part) for part in results])
    for number, (features, state, part) in enumerate(zip(micro, states, parts), start=1):
        _set_random_state(state)
        if number < len(micro):
            with unsynchronised():
                _send(model, features, part, backward, autocast)
        else:
            _send(model, features, part, backward, autocast)
    _set_random_state(after)
    return value.detach()


def _send(
    model: Callable[[list[Micro]], Tensor],
    features: Micro,
    gradient: Tensor,
    backward: Callable[[Tensor], None],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> None:
    with autocast():
        results = model([features])
    # The gradient of this sum with respect to the results is ``gradient``.
    backward((results * gradient).sum())


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(device.get_rng_state() for device in _devices())]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for device, its in zip(_devices(), state[1:]):
        device.set_rng_state(its)


def _devices() -> list[Any]:
    """Return the modules of the kinds of device that dropout may be drawn on, beside the CPU."""
    return [device for device in (torch.cuda, torch.mps) if device.is_available()]
