"""Losses: pure functions from scores or vectors to one loss per query.

Each returns a tensor [B], one loss per query, so that the trainer can weigh the queries of an optimizer step equally
however they were cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from finerank.core.errors import UserError

Loss: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor]
"""``loss(outputs of the module, batch)`` -> [B]."""


def group_cross_entropy(scores: Tensor) -> Tensor:
    """Return the softmax cross-entropy of each group, its positive at 0: ``−log softmax(s_i)_0``.

    When: a cross-encoder trained on groups of one positive and hard negatives; the default for rerankers.
    Source: localized contrastive estimation, Gao et al. 2021 (https://arxiv.org/abs/2101.08751).

    Args:
        scores: logits [B, G].

    Returns:
        Losses [B], float32.
    """
    scores = scores.float()
    return cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long), reduction="none")


def info_nce(
    queries: Tensor, passages: Tensor, *, temperature: float, in_batch: bool = True, masked: Tensor | None = None
) -> Tensor:
    """Return ``−log( exp(q_i·p_{iG}/τ) / Σ_j exp(q_i·p_j/τ) )`` for each query i.

    j runs over all passages of the batch that are not masked; with ``in_batch=False`` over the query's own G only.

    When: a bi-encoder; the more passages in the batch, the better. τ is 0.01 to 0.1 for unit vectors and 1 for
    others. Source: van den Oord et al. 2018 (https://arxiv.org/abs/1807.03748); in-batch negatives as in DPR,
    Karpukhin et al. 2020 (https://arxiv.org/abs/2004.04906).

    Args:
        queries: vectors [B, D].
        passages: vectors [B·G, D], grouped by query, the positive first in each group.
        temperature: τ.
        in_batch: whether the other queries' passages are negatives too.
        masked: [B, B·G], true where a passage must not count as a negative of the query; see
            :func:`known_positive_mask`. The query's own positive is never masked.

    Returns:
        Losses [B], float32.
    """
    queries, passages = queries.float(), passages.float()
    count = len(queries)
    group = len(passages) // count
    if not in_batch:
        own = torch.einsum("bd,bgd->bg", queries, passages.view(count, group, -1)) / temperature
        return group_cross_entropy(own)
    scores = queries @ passages.T / temperature
    target = torch.arange(count, device=scores.device) * group
    if masked is not None:
        hidden = masked.scatter(1, target.unsqueeze(1), value=False)
        scores = scores.masked_fill(hidden, float("-inf"))
    return cross_entropy(scores, target, reduction="none")


def known_positive_mask(passage_ids: Tensor, positive_ids: Sequence[Tensor]) -> Tensor:
    """Say which passages of the batch are a known positive of which query.

    Args:
        passage_ids: digest of each passage's text, int64 [P].
        positive_ids: for each query the digests of its known positives, int64 [n_i].

    Returns:
        Booleans [B, P].
    """
    return torch.stack([torch.isin(passage_ids, ids.to(passage_ids.device)) for ids in positive_ids])


def reranker_loss(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
    """Take the loss of a cross-encoder's ``{"scores": [B, G]}``."""
    return group_cross_entropy(outputs["scores"])


def embedder_loss(*, temperature: float, in_batch: bool = True, cosine: bool = False) -> Loss:
    """Return the loss of a bi-encoder's ``{"queries": [B, D], "passages": [B·G, D]}``.

    With ``cosine`` the vectors are brought to unit length first; else their inner products count.

    The batch carries ``passage_ids`` and ``positive_ids``, from which copies of known positives are masked out.
    """
    if temperature <= 0:
        raise UserError(f"--temperature must be more than 0, got {temperature}")

    def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        masked = known_positive_mask(batch["passage_ids"], batch["positive_ids"]) if in_batch else None
        queries, passages = outputs["queries"].float(), outputs["passages"].float()
        if cosine:
            queries, passages = normalize(queries, dim=-1), normalize(passages, dim=-1)
        return info_nce(queries, passages, temperature=temperature, in_batch=in_batch, masked=masked)

    return loss
