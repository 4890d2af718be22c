"""Losses of vectors: every query against the passages of the batch, or of all devices' batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

LOWEST = float("-inf")


class Similarities(NamedTuple):
    """What each query's loss is taken over.

    Attributes:
        scores: similarity / temperature, float32 [B, P].
        own: columns of the query's own passages [B, G], the positive first.
        hidden: booleans [B, P], true where a passage must not count for the query; never one of ``own``.
    """

    scores: Tensor
    own: Tensor
    hidden: Tensor

    def of_own(self) -> Tensor:
        """Return the scores of the query's own passages [B, G]."""
        return self.scores.gather(1, self.own)


def similarities(
    queries: Tensor, passages: Tensor, group_size: int, temperature: float, *, start: int = 0,
    hidden: Tensor | None = None,
) -> Similarities:  # fmt: skip
    """Return ``q_i·p_j / τ`` of all pairs.

    Args:
        queries: vectors [B, D].
        passages: vectors [P, D], grouped by query; the first query's group begins at row ``start``.
        group_size: G.
        temperature: τ; 0.01 to 0.1 for unit vectors, 1 for others.
        hidden: [B, P]; a query's own passages are taken out of it.
    """
    scores = queries.float() @ passages.float().T / temperature
    first = start + torch.arange(len(queries), device=scores.device) * group_size
    own = first.unsqueeze(1) + torch.arange(group_size, device=scores.device)
    aside = torch.zeros_like(scores, dtype=torch.bool) if hidden is None else hidden.scatter(1, own, value=False)
    return Similarities(scores, own, aside)


def info_nce(found: Similarities) -> Tensor:
    """Return ``−log( exp(s_{i,own positive}) / Σ_j exp(s_ij) )`` for each query i, j over all that is not hidden.

    When: a bi-encoder; the more passages in the batch, the better.
    Source: van den Oord et al. 2018 (https://arxiv.org/abs/1807.03748); in-batch negatives as in DPR, Karpukhin et al.
    2020 (https://arxiv.org/abs/2004.04906).

    Returns:
        Losses [B], float32.
    """
    return cross_entropy(found.scores.masked_fill(found.hidden, LOWEST), found.own[:, 0], reduction="none")


def m3_distillation(found: Similarities, teacher: Tensor) -> Tensor:
    """Return ``Σ_g softmax(t_i)_g · CE_g``, CE_g the in-batch cross-entropy whose target is the group's passage g.

    In CE_g the group's passages before g are left out: each passage of the group is a positive in its turn, by as
    much as the teacher says, and never competes with those before it.

    When: an embedder is taught by a reranker and in-batch negatives are to count as well.
    Source: BGE M3-Embedding, Chen et al. 2024 (https://arxiv.org/abs/2402.03216), FlagEmbedding's ``m3_kd_loss``.

    Args:
        teacher: logits [B, G]; NaN where there is none: that passage is no target.

    Returns:
        Losses [B], float32.
    """
    share = teacher.float().masked_fill(teacher.isnan(), LOWEST).softmax(dim=1)
    scores = found.scores.masked_fill(found.hidden, LOWEST)
    losses = torch.zeros_like(share[:, 0])
    for place in range(share.shape[1]):
        target = found.own[:, place]
        losses = losses + share[:, place] * cross_entropy(scores, target, reduction="none")
        scores = scores.scatter(1, target.unsqueeze(1), LOWEST)
    return losses


def known_positive_mask(passage_ids: Tensor, positive_ids: Sequence[Tensor]) -> Tensor:
    """Say which passages of the batch are a known positive of which query.

    Args:
        passage_ids: digest of each passage's text, int64 [P].
        positive_ids: for each query the digests of its known positives, int64 [n_i].

    Returns:
        Booleans [B, P].
    """
    return torch.stack([torch.isin(passage_ids, ids.to(passage_ids.device)) for ids in positive_ids])


def likely_positive_mask(found: Similarities, margin: float, temperature: float) -> Tensor:
    """Say which passages are so similar to a query that they may be unlabelled positives.

    Those more similar than the query's own positive by more than ``margin`` (before the temperature). Source: the
    mask of Qwen3-Embedding's loss, Zhang et al. 2025 (https://arxiv.org/abs/2506.05176).

    Returns:
        Booleans [B, P].
    """
    scores = found.scores.detach()
    return scores > scores.gather(1, found.own[:, :1]) + margin / temperature
