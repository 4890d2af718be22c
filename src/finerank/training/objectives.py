"""The loss of a run: a hard loss from the labels, distillation from teacher scores, or both added up.

An objective takes what the model gave and the batch, and returns one loss per query [B].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from finerank.core.errors import UsageError, UserError
from finerank.core.train_options import EmbedderOptions, RerankerOptions, TrainOptions
from finerank.training import distributed, losses
from finerank.training.contrastive import (
    Similarities,
    info_nce,
    known_positive_mask,
    likely_positive_mask,
    m3_distillation,
    similarities,
)
from finerank.training.dataset import COUNTS_KEY

Loss: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor]
"""``loss(outputs of the module, batch)`` -> [B]."""

RERANKER_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "ce": losses.group_cross_entropy,
    "bce": losses.binary_cross_entropy,
    "lambda": lambda scores: losses.lambda_loss(scores, losses.first_is_relevant(scores)),
    "ranknet": lambda scores: losses.ranknet(scores, losses.first_is_relevant(scores)),
}
"""Name of a hard loss -> loss of the scores [B, G]."""


@dataclass(frozen=True)
class Distillation:
    """How teacher scores are learnt from.

    Attributes:
        kind: ``kl``, ``margin_mse``, ``ranknet`` (over the teacher's order) or, for embedders, ``m3_kd``.
        temperature: T of ``kl``; ``m3_kd`` divides the teacher's logits by it.
        weight: factor of this loss.
        probabilities: whether the teacher's scores are probabilities rather than logits.
    """

    kind: str = "kl"
    temperature: float = 1.0
    weight: float = 1.0
    probabilities: bool = False

    def loss(self, scores: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the weighted loss [B] of a group's scores [B, G] against the batch's teacher scores."""
        teacher = self.teacher(batch, scores.device)
        if self.kind == "kl":
            return self.weight * losses.kl_divergence(scores, teacher, self.temperature)
        if self.kind == "margin_mse":
            return self.weight * losses.margin_mse(scores, teacher)
        return self.weight * losses.ranknet(scores, teacher)

    def teacher(self, batch: Mapping[str, Any], device: torch.device) -> Tensor:
        """Return the teacher's logits [B, G]."""
        teacher: Tensor = batch["teacher"].to(device)
        return losses.teacher_logits(teacher) if self.probabilities else teacher


def objective_of(options: TrainOptions, *, cosine: bool) -> Loss:
    """Return the loss that a run's options ask for.

    Args:
        cosine: whether the model's vectors are compared by cosine.
    """
    hard = None if options.distils_alone else options.loss
    distillation = None
    if options.learns_from_teacher:
        probabilities = options.teacher_scale == "probability"
        distillation = Distillation(options.teaching, options.kd_temperature, options.kd_weight, probabilities)
    if not isinstance(options, EmbedderOptions):
        itself = isinstance(options, RerankerOptions) and options.self_distillation
        return reranker_objective(hard, distillation, self_distillation=itself)
    loss = embedder_objective(
        temperature=options.temperature or (0.02 if cosine else 1.0), hard=hard is not None, distillation=distillation,
        in_batch=options.use_inbatch_neg, cosine=cosine, across_devices=options.negatives_cross_device,
        false_negative_margin=options.false_negative_margin,
    )  # fmt: skip
    return matryoshka(loss, options.mrl_dims) if options.use_mrl else loss


def reranker_objective(
    hard: str | None = "ce", distillation: Distillation | None = None, *, self_distillation: bool = True
) -> Loss:
    """Return the loss of a reranker's ``{"scores": [B, G]}`` or, where it scores by layer, ``layer_scores`` [B, G, C].

    Args:
        hard: key of ``RERANKER_LOSSES``, or None for distillation alone.
        self_distillation: without a teacher, lower layers learn from the highest one too.
    """
    if hard is None and distillation is None:
        raise ValueError("neither a hard loss nor distillation")

    def of_scores(scores: Tensor, batch: Mapping[str, Any]) -> Tensor:
        parts = [RERANKER_LOSSES[hard](scores)] if hard is not None else []
        if distillation is not None:
            parts.append(distillation.loss(scores, batch))
        return torch.stack(parts).sum(dim=0)

    def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        if "layer_scores" not in outputs:
            return of_scores(outputs["scores"], batch)
        layers = outputs["layer_scores"].unbind(dim=-1)
        parts = [of_scores(scores, batch) for scores in layers]
        if distillation is None and self_distillation:
            parts += losses.self_distillation(layers)
        return torch.stack(parts).sum(dim=0)

    return loss


def embedder_objective(
    *, temperature: float, hard: bool = True, distillation: Distillation | None = None, in_batch: bool = True,
    cosine: bool = False, across_devices: bool = False, false_negative_margin: float | None = None,
) -> Loss:  # fmt: skip
    """Return the loss of a bi-encoder's ``{"queries": [B, D], "passages": [B·G, D]}``.

    The batch carries ``passage_ids`` and ``positive_ids``, from which copies of known positives are masked out; its
    ``in_batch``, where it has one, says for this batch alone whether other queries' passages count.

    Args:
        temperature: divides the similarities.
        hard: InfoNCE; False leaves distillation alone.
        in_batch: whether the passages of other queries are negatives too.
        cosine: bring the vectors to unit length first; else their inner products count.
        across_devices: whether so are the passages on other devices, each device's gradient included.
        false_negative_margin: see :func:`finerank.training.contrastive.likely_positive_mask`.
    """
    if temperature <= 0:
        raise UserError(f"--temperature must be more than 0, got {temperature}")

    def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        queries, passages = outputs["queries"].float(), outputs["passages"].float()
        if cosine:
            queries, passages = normalize(queries, dim=-1), normalize(passages, dim=-1)
        whole = in_batch and batch.get("in_batch", True)
        found = _in_batch(queries, passages, batch, temperature, across_devices and whole)
        if not whole:
            found = _own_only(found)
        elif false_negative_margin is not None:
            likely = likely_positive_mask(found, false_negative_margin, temperature)
            found = found._replace(hidden=(found.hidden | likely).scatter(1, found.own, value=False))
        parts = [info_nce(found)] if hard else []
        if distillation is not None and distillation.kind == "m3_kd":
            teacher = distillation.teacher(batch, queries.device) / distillation.temperature
            parts.append(distillation.weight * m3_distillation(found, teacher))
        elif distillation is not None:
            parts.append(distillation.loss(found.of_own(), batch))
        return torch.stack(parts).sum(dim=0)

    return loss


def matryoshka(loss: Loss, dims: Sequence[int]) -> Loss:
    """Return the mean of ``loss`` over the first d numbers of every vector, d in ``dims``.

    When: vectors are to be cut short later, for smaller indexes. Cosines are taken of the cut vectors.
    Source: Kusupati et al. 2022 (https://arxiv.org/abs/2205.13147).
    """

    def mean(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        width = outputs["queries"].shape[1]
        if max(dims) > width:
            raise UsageError(f"--mrl_dims {max(dims)}: the vectors of this model have {width} numbers")
        cut = ({side: outputs[side][:, :size] for side in ("queries", "passages")} for size in dims)
        return torch.stack([loss(part, batch) for part in cut]).mean(dim=0)

    return mean


def _in_batch(
    queries: Tensor, passages: Tensor, batch: Mapping[str, Any], temperature: float, across_devices: bool
) -> Similarities:
    group_size = len(passages) // len(queries)
    ids = batch["passage_ids"].to(passages.device)
    counts = batch[COUNTS_KEY].to(passages.device) if COUNTS_KEY in batch else passages.new_ones(len(queries))
    counted = counts.bool().repeat_interleave(group_size)
    start = 0
    if across_devices:
        passages, start = distributed.gather(passages)
        ids, counted = distributed.gather(ids).tensor, distributed.gather(counted.long()).tensor.bool()
    hidden = known_positive_mask(ids, batch["positive_ids"]) | ~counted
    return similarities(queries, passages, group_size, temperature, start=start, hidden=hidden)


def _own_only(found: Similarities) -> Similarities:
    return found._replace(hidden=torch.ones_like(found.hidden).scatter(1, found.own, value=False))
