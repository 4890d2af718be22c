"""Tripwires: what a training run must not hide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finerank.core.errors import UserError
from finerank.core.watch_options import sign_of
from finerank.data.console import warn
from finerank.data.lengths import POSITIVES_CUT

FLAT_SCORES = 1e-4
FLAT_VECTORS = 1e-3
PATIENCE_STEPS = 10
DECISIVE = "nDCG@10"
"""What a reranker and its first stage are compared by."""
COLLAPSED = (
    f"the scores have collapsed to a constant for {PATIENCE_STEPS} steps: the model no longer tells passages apart"
)
LOWER_RATE = "try a lower --learning_rate"
BESIDE_FIRST_STAGE = "negatives from that first stage, more rows, or use both by --fusion zscore"


class Tripwires:
    """Says aloud what must not be hidden and keeps it for the manifest and the card; with ``strict`` it ends the run.

    Attributes:
        tripped: the sentences so far.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.tripped: list[str] = []

    def trip(self, sentence: str | None, hint: str) -> None:
        """Take a sentence that something is wrong; None says that nothing is.

        Raises:
            UserError: with ``strict``.
        """
        if sentence is None or sentence in self.tripped:
            return
        self.tripped.append(sentence)
        if self.strict:
            raise UserError(f"{sentence} (--strict)", hint=hint)
        warn(f"{sentence}; {hint}")


def is_flat(outputs: Mapping[str, Any]) -> bool:
    """Say whether the model says the same of everything in a batch.

    A cross-encoder: the standard deviation of the scores inside the groups is below ``FLAT_SCORES``. A bi-encoder: the
    distance of the passages' vectors from their mean is below ``FLAT_VECTORS`` of its length.
    """
    with torch.no_grad():
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
    if before is None or after is None or sign_of(metric) * (after - before) >= 0:
        return None
    return f"the tuned model is worse than the base: {metric} {before:.4f} -> {after:.4f}"


def beaten_by_first_stage(
    name: str, first: Mapping[str, float], tuned: Mapping[str, float], fused: Mapping[str, float]
) -> str | None:
    """Return the sentence that says that a reranker orders its candidates no better than they came, or None."""
    before, after = first[DECISIVE], tuned[DECISIVE]
    if after > before:
        return None
    both = fused[DECISIVE]
    together = f"together {both:.4f}" if both > before else "together no better"
    return (
        f"the tuned reranker does not beat its own first stage {name} on these queries: {DECISIVE} {after:.4f} against "
        f"{before:.4f}, {together}"
    )


def truncated_positives(truncated: int, total: int, limit: int) -> str | None:
    """Return the sentence that says that many positives are cut at ``limit`` tokens, or None."""
    if total == 0 or truncated <= POSITIVES_CUT * total:
        return None
    return f"{truncated:,} of {total:,} positives ({truncated / total:.0%}) are longer than {limit} tokens and get cut"
