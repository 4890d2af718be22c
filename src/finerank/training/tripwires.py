"""Tripwires: what a training run must not hide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finerank.data.console import warn
from finerank.data.lengths import POSITIVES_CUT

FLAT_SCORES = 1e-4
FLAT_VECTORS = 1e-3
PATIENCE_STEPS = 10


class Flatness:
    """Says aloud, once, that the model has come to say the same of everything.

    For a cross-encoder: the standard deviation of the scores inside the groups stays below ``FLAT_SCORES``. For a
    bi-encoder: the distance of the passages' vectors from their mean stays below ``FLAT_VECTORS`` of its length.
    """

    def __init__(self) -> None:
        self.flat_steps = 0
        self.warned = False

    @torch.no_grad()
    def look(self, outputs: Mapping[str, Any]) -> None:
        """Look at one batch's outputs."""
        if self.warned:
            return
        self.flat_steps = self.flat_steps + 1 if _is_flat(outputs) else 0
        if self.flat_steps >= PATIENCE_STEPS:
            self.warned = True
            warn(
                f"the scores have collapsed to a constant for {PATIENCE_STEPS} steps: the model no longer tells "
                "passages apart; try a lower --learning_rate"
            )


def _is_flat(outputs: Mapping[str, Any]) -> bool:
    if "scores" in outputs:
        scores: Tensor = outputs["scores"].float()
        return scores.shape[1] > 1 and float(scores.std(dim=1).max()) < FLAT_SCORES
    passages: Tensor = outputs["passages"].float()
    mean = passages.mean(dim=0)
    spread = float((passages - mean).norm(dim=1).max())
    return len(passages) > 1 and spread < FLAT_VECTORS * float(mean.norm())


def worse_than_base(base: Mapping[str, float], best: Mapping[str, float], metric: str) -> str | None:
    """Return the sentence that says that training made the model worse, or None."""
    before, after = base.get(metric), best.get(metric)
    if before is None or after is None or after >= before:
        return None
    return f"the tuned model is worse than the base: {metric} {before:.4f} -> {after:.4f}"


def truncated_positives(truncated: int, total: int, limit: int) -> str | None:
    """Return the sentence that says that many positives are cut at ``limit`` tokens, or None."""
    if total == 0 or truncated <= POSITIVES_CUT * total:
        return None
    return f"{truncated:,} of {total:,} positives ({truncated / total:.0%}) are longer than {limit} tokens and get cut"
