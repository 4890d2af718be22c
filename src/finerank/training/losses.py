"""Losses over a group's scores: pure functions, [B, G] in, one loss per query [B] out.

One loss per query, so that the trainer can weigh the queries of an optimizer step equally however they were cut into
batches. The positive stands at 0 in each group. Losses of vectors, with the passages of the whole batch, are in
:mod:`finerank.training.contrastive`; which loss a run takes, in :mod:`finerank.training.objectives`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

LAMBDA_MU = 10.0


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


def binary_cross_entropy(scores: Tensor) -> Tensor:
    """Return each group's mean pointwise loss: ``mean_j −log σ(s_j)`` for the positive, ``−log σ(−s_j)`` for others.

    When: scores are to be read as probabilities one by one, with a fixed threshold; learns the order less directly
    than :func:`group_cross_entropy`. Source: seed 000's fork of FlagEmbedding.

    Args:
        scores: logits [B, G].

    Returns:
        Losses [B], float32.
    """
    scores = scores.float()
    targets = torch.zeros_like(scores)
    targets[:, 0] = 1
    return binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(dim=1)


def ranknet(scores: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean of ``log(1 + exp(s_j − s_i))`` over the pairs in which i is more relevant than j.

    When: only the order of the relevances means something, as with a teacher of another scale.
    Source: Burges et al. 2005 (RankNet).

    Args:
        scores: [B, G].
        relevance: [B, G]; NaN where it is not known.

    Returns:
        Losses [B], float32; 0 for a group without such a pair.
    """
    return _mean_over_pairs(_pair_losses(scores), _better(relevance))


def lambda_loss(scores: Tensor, relevance: Tensor) -> Tensor:
    """Return NDCG-Loss2++: RankNet's pairs, each weighted by what exchanging the two would do to nDCG.

    ``w_ij = |G_i − G_j| · ( μ·|1/D(|i−j|) − 1/D(|i−j|+1)| + |1/D_i − 1/D_j| )`` with ranks i, j by score,
    ``G = (2^relevance − 1) / maxDCG``, ``D(k) = log2(1 + k)``, μ = 10; the mean over the pairs in which i is more
    relevant of ``w_ij · log2(1 + exp(s_j − s_i))``.

    When: the head of the ranking counts, as nDCG@10 measures it; groups of 8 and more.
    Source: Wang et al. 2018, The LambdaLoss Framework (CIKM).

    Args:
        scores: [B, G].
        relevance: grades [B, G], 0 or more.

    Returns:
        Losses [B], float32; 0 for a group without two different grades.
    """
    grades = relevance.float()
    losses = _pair_losses(scores) / math.log(2)
    weights = _ndcg_weights(scores.detach().float(), grades)
    return _mean_over_pairs(losses * weights, _better(grades))


def kl_divergence(scores: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``T² · KL( softmax(t/T) ‖ softmax(s/T) )`` of each group.

    When: the teacher's scores are comparable inside a group; a higher T takes more from the passages that the teacher
    puts low. T² keeps the gradient's size (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

    Args:
        scores: the student's logits [B, G].
        teacher: the teacher's logits [B, G]; NaN where it gave none: left out on both sides.
        temperature: T.

    Returns:
        Losses [B], float32.
    """
    unknown = teacher.isnan()
    student = (scores.float() / temperature).masked_fill(unknown, float("-inf"))
    target = (teacher.float() / temperature).masked_fill(unknown, float("-inf"))
    # Where both are −inf the difference is not a number; it has no weight.
    gap = (target.log_softmax(dim=1) - student.log_softmax(dim=1)).masked_fill(unknown, 0.0)
    whole: Tensor = (target.softmax(dim=1) * gap).sum(dim=1) * temperature**2
    return whole


def self_distillation(layers: Sequence[Tensor]) -> list[Tensor]:
    """Return what the lower layers of a reranker that scores by layer have yet to learn from the highest.

    ``KL( softmax(s_last) ‖ softmax(s_c) )`` for each layer c below the last, through which no gradient flows as the
    teacher: the gradient of FlagEmbedding's cross-entropy against ``softmax(s_last)``, and zero where all agree.

    When: layers are trained together, and the last one has seen the most. Source: Zhang et al. 2019, Be Your Own
    Teacher (https://arxiv.org/abs/1905.08094); FlagEmbedding's layer-wise rerankers.

    Args:
        layers: scores [B, G] of each layer, the highest last.

    Returns:
        A loss [B] per layer but the last, float32.
    """
    teacher = layers[-1].detach()
    return [kl_divergence(scores, teacher) for scores in layers[:-1]]


def margin_mse(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of ``((s_0 − s_j) − (t_0 − t_j))²`` over the negatives j.

    When: teacher and student speak the same scale and margins are to be kept, as in GPL.
    Source: Hofstätter et al. 2020 (https://arxiv.org/abs/2010.02666).

    Args:
        scores: the student's scores [B, G].
        teacher: the teacher's scores [B, G]; NaN where it gave none: that negative is left out.

    Returns:
        Losses [B], float32; 0 where no negative has a score.
    """
    teacher = teacher.float()
    gaps = (scores[:, :1] - scores[:, 1:]).float() - (teacher[:, :1] - teacher[:, 1:])
    known = ~gaps.isnan()
    squares: Tensor = gaps.masked_fill(~known, 0.0).square().sum(dim=1)
    return squares / known.sum(dim=1).clamp(min=1)


def teacher_logits(teacher: Tensor) -> Tensor:
    """Turn a teacher's probabilities into logits, ``log(p / (1 − p))``, p kept 1e-6 from 0 and 1; NaN stays."""
    return teacher.float().clamp(1e-6, 1 - 1e-6).logit()


def first_is_relevant(scores: Tensor) -> Tensor:
    """Return the labels of groups as relevances [B, G]: 1 at 0, else 0."""
    relevance = torch.zeros_like(scores, dtype=torch.float32)
    relevance[:, 0] = 1
    return relevance


def _pair_losses(scores: Tensor) -> Tensor:
    """Return ``log(1 + exp(s_j − s_i))`` [B, G (i), G (j)]."""
    scores = scores.float()
    return softplus(scores.unsqueeze(1) - scores.unsqueeze(2))


def _better(relevance: Tensor) -> Tensor:
    """Say where i is more relevant than j [B, G (i), G (j)]; never where one of them is not known."""
    return relevance.unsqueeze(2) > relevance.unsqueeze(1)


def _mean_over_pairs(losses: Tensor, chosen: Tensor) -> Tensor:
    summed: Tensor = losses.masked_fill(~chosen, 0.0).sum(dim=(1, 2))
    return summed / chosen.sum(dim=(1, 2)).clamp(min=1)


def _ndcg_weights(scores: Tensor, grades: Tensor) -> Tensor:
    count = scores.shape[1]
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1).float() + 1
    discounts = 1 / torch.log2(1 + ranks)
    best = grades.sort(dim=1, descending=True).values
    places = torch.arange(1, count + 1, device=scores.device, dtype=torch.float32)
    ideal = ((2**best - 1) / torch.log2(1 + places)).sum(dim=1, keepdim=True)
    gains = (2**grades - 1) / ideal.clamp(min=torch.finfo(torch.float32).tiny)
    distance = (ranks.unsqueeze(2) - ranks.unsqueeze(1)).abs().clamp(min=1)
    step = (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance)).abs()
    swap = (discounts.unsqueeze(2) - discounts.unsqueeze(1)).abs()
    return (gains.unsqueeze(2) - gains.unsqueeze(1)).abs() * (LAMBDA_MU * step + swap)
