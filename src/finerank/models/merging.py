"""Weighted means of models that have the same shape: a tuned one and its base, or several tuned ones.

The mean keeps much of what tuning has taught on its data and gets back much of what it has cost elsewhere. Source:
Xiao et al. 2023, LM-Cocktail. All arithmetic is in float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from finerank.core.errors import UserError
from finerank.models.families import is_reranker
from finerank.models.load import load_encoder, load_scorer
from finerank.models.model_files import base_of

State = dict[str, torch.Tensor]
"""Weight name -> tensor on the CPU."""


def open_model(name: str, **loading: Any) -> Any:
    """Open an embedder or a reranker with float32 weights, an adapter merged into its base; say which by its type."""
    load = load_scorer if is_reranker(name, loading.get("cache_dir")) else load_encoder
    return load(name, dtype="float32", graph=False, **loading)


def is_adapter(name: str, cache_dir: str | None = None) -> bool:
    """Say whether ``name`` is an adapter, which is merged with its base when it is opened."""
    return base_of(name, cache_dir) is not None


def state_of(model: Any) -> State:
    """Return a copy of all weights of a model."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.module.state_dict().items()}


def check_alike(first: Any, other: Any) -> None:
    """Refuse a model whose weights do not stand where the first one's do.

    Raises:
        UserError: naming the first difference: family, architecture, tokenizer, pooling, a weight or its shape.
    """
    facts = zip(("family", "architecture", "tokenizer", "modules after the transformer"), _facts(first), _facts(other))
    for what, one, two in facts:
        if one != two:
            shown = f": {one} and {two}" if len(one) + len(two) < 120 else ""
            raise UserError(f"{first.name} and {other.name} cannot be merged: another {what}{shown}")
    ours, theirs = first.module.state_dict(), other.module.state_dict()
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            owner = first.name if name in ours else other.name
            raise UserError(f"{first.name} and {other.name} cannot be merged: only {owner} has the weight {name}")
        if ours[name].shape != theirs[name].shape:
            shapes = f"{list(ours[name].shape)} and {list(theirs[name].shape)}"
            raise UserError(f"{first.name} and {other.name} cannot be merged: {name} has the shapes {shapes}")


def shares_of(weight: float, others: int) -> list[float]:
    """Return the share of the first model, then of each other one: what is left, in equal parts.

    >>> shares_of(0.5, 2)
    [0.5, 0.25, 0.25]
    """
    return [weight, *[(1.0 - weight) / others] * others]


def mean_of(states: Sequence[Mapping[str, torch.Tensor]], shares: Sequence[float]) -> State:
    """Return the weighted mean of each weight; what is no floating number comes from the first.

    A share of 0 leaves its model out, so that a share of 1 gives its model's very bytes.
    """
    merged: State = {}
    for name, tensor in states[0].items():
        if not tensor.is_floating_point():
            merged[name] = tensor.clone()
            continue
        terms = [(share, state[name]) for share, state in zip(shares, states) if share]
        if len(terms) == 1 and terms[0][0] == 1.0:
            merged[name] = terms[0][1].clone()
            continue
        total = torch.zeros_like(tensor, dtype=torch.float32)
        for share, part in terms:
            total.add_(part.float(), alpha=share)
        merged[name] = total.to(tensor.dtype)
    return merged


def put(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Put weights into an open model."""
    model.module.load_state_dict(state, strict=True)


def _facts(model: Any) -> tuple[str, str, str, str]:
    transformer = model.transformer
    tokenizer = json.loads(model.tokenizer.state)
    plain = {key: value for key, value in tokenizer.items() if key not in ("padding", "truncation")}
    return (
        "embedder" if hasattr(model, "encode") else "reranker",
        type(transformer).__name__,
        json.dumps(plain, sort_keys=True),
        str(list(getattr(model, "model", []))[1:]),
    )
