"""Weights that a training leaves as they are, by the words and patterns of ``--freeze``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from finerank.core.errors import UsageError
from finerank.data.console import say

BESIDE = re.compile(r"model\.\d+\.")
"""Begins the names of what a bi-encoder has after its transformer, such as a dense layer."""
EMBEDDINGS = re.compile(r"(.*embeddings?|embed_.*|wte|wpe)")
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
LAYERS = re.compile(r"layers?:(\d+)(?:-(\d+))?")
POSITIONS = "*position_embeddings*"


def freeze(module: torch.nn.Module, transformer: Any, wanted: Sequence[str], heads: Sequence[str]) -> None:
    """Freeze the parameters of ``module`` that ``wanted`` names.

    Args:
        transformer: the transformers model inside ``module``; its parameters go by their own names here.
        wanted: ``embeddings``, ``layers:a-b`` (half-open), ``layers:a``, ``all_but_head``, names, patterns.
        heads: modules of the transformers model that stand on its blocks.

    Raises:
        UsageError: if one of them names nothing, or nothing is left to train.
    """
    inside = next(f"{name}." for name, part in module.named_modules() if part is transformer)
    named = {name.removeprefix(inside): parameter for name, parameter in module.named_parameters()}
    for word in wanted:
        for name in _chosen(word, list(named), heads):
            named[name].requires_grad_(False)
    if wanted and not any(parameter.requires_grad for parameter in named.values()):
        raise UsageError(f"--freeze {' '.join(wanted)} leaves nothing to train", hint="freeze less")


def freeze_positions(module: torch.nn.Module) -> None:
    """Freeze position embeddings; a model that has none (rotary ones are no weights) stays as it is."""
    found = [parameter for name, parameter in module.named_parameters() if fnmatchcase(name, POSITIONS)]
    for parameter in found:
        parameter.requires_grad_(False)
    if not found:
        say("note: --fix_position_embedding has no effect: the model has no position embeddings to train")


def trained(module: torch.nn.Module) -> str | None:
    """Say how many parameters learn, or None where all do."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    whole, part = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    return None if part == whole else f"{part:,} of {whole:,} parameters ({part / whole:.1%})"


def heads_of(transformer: Any) -> list[str]:
    """Return the modules of a scoring model that stand on its blocks, and have weights: its head, and a pooler.

    Of a model with a head per layer, each of them.
    """
    backbone = getattr(transformer, transformer.base_model_prefix, None)
    if backbone is None or backbone is transformer:
        return []
    above = [(name, child) for name, child in transformer.named_children() if child is not backbone and _weighs(child)]
    own = [part for name, child in above for part in _members(name, child)]
    pooler = getattr(backbone, "pooler", None)
    return own + ([f"{transformer.base_model_prefix}.pooler"] if pooler is not None and _weighs(pooler) else [])


def _members(name: str, module: torch.nn.Module) -> list[str]:
    """Return the names of what a list holds, which peft cannot save as one, or of the module itself."""
    return [f"{name}.{place}" for place in range(len(module))] if isinstance(module, torch.nn.ModuleList) else [name]


def _weighs(module: torch.nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _chosen(word: str, names: list[str], heads: Sequence[str]) -> list[str]:
    layers = LAYERS.fullmatch(word)
    if layers:
        found = _of_layers(layers, names)
    elif word == "embeddings":
        found = [name for name in names if any(EMBEDDINGS.fullmatch(part) for part in name.split("."))]
    elif word == "all_but_head":
        above = tuple(f"{head}." for head in heads)
        found = [name for name in names if not name.startswith(above) and not BESIDE.match(name)]
    else:
        found = [name for name in names if fnmatchcase(name, word) or name.startswith(f"{word}.")]
    if not found:
        raise UsageError(
            f'--freeze "{word}" names no weights of this model', hint=f"its weights: {', '.join(names[:3])} …"
        )
    return found


def _of_layers(layers: re.Match[str], names: list[str]) -> list[str]:
    """Return the weights of the blocks [a, b), or of block a alone."""
    first = int(layers[1])
    end = int(layers[2]) if layers[2] else first + 1
    numbers = {name: int(match[1]) for name in names if (match := LAYER.search(name))}
    last = max(numbers.values(), default=-1)
    if not first < end <= last + 1:
        raise UsageError(f"--freeze {layers[0]}: the model has {last + 1} layers", hint=f"layers:0-{last + 1} is all")
    return [name for name, number in numbers.items() if first <= number < end]
