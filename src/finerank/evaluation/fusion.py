"""A reranker and its first stage together: z-score fusion, reciprocal ranks, and the choice of the weight.

A small reranker often does not beat a well-tuned first stage alone but does so with it. Both lists are the same
candidates; each side's scores are standardised per query, so that logits and cosines can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finerank.core.errors import UserError
from finerank.core.runs import Qrels, Run
from finerank.evaluation.fusion_store import DEFAULT_WEIGHT, METHODS
from finerank.evaluation.metrics import evaluate_run, mean

RRF_K = 60
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True)
class Choice:
    """The weight that was best on the development queries, and what every weight gave."""

    weight: float
    value: float
    curve: dict[float, float]


def zscores(scores: ArrayLike) -> NDArray[np.float64]:
    """Standardise one query's scores [N]: mean 0, deviation 1; all equal gives zeros.

    >>> zscores([1.0, 3.0]).tolist()
    [-1.0, 1.0]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        return values
    spread = values.std()
    # a constant list's deviation is rounding noise; dividing by it would make the noise a ranking
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / spread)


def fuse_scores(
    first: Sequence[float], reranker: Sequence[float], method: str = "zscore", weight: float = DEFAULT_WEIGHT
) -> list[float]:
    """Fuse two aligned score lists of one query's candidates.

    ``zscore``: z(first) + weight · z(reranker). ``rrf``: 1/(60 + rank) of the first stage + weight times the same of
    the reranker (Cormack, Clarke and Büttcher 2009); equal scores share the better rank. ``none``: the reranker's own.
    """
    if len(first) != len(reranker):
        raise UserError(f"fusion needs one first-stage score per passage: {len(first)} for {len(reranker)} passages")
    if method == "none":
        return [float(score) for score in reranker]
    if method == "rrf":
        fused = 1.0 / (RRF_K + _ranks(first)) + weight / (RRF_K + _ranks(reranker))
    elif method == "zscore":
        fused = zscores(first) + weight * zscores(reranker)
    else:
        raise UserError(f'unknown fusion "{method}"', hint=" or ".join(METHODS))
    return [float(score) for score in fused]


def fuse_runs(first: Run, reranker: Run, method: str = "zscore", weight: float = DEFAULT_WEIGHT) -> Run:
    """Fuse per query over the reranker's candidates, which the first stage must have scored too."""
    fused: Run = {}
    for query, scores in reranker.items():
        base = first.get(query, {})
        missing = next((passage for passage in scores if passage not in base), None)
        if missing is not None:
            raise UserError(f'the first stage has no score for passage "{missing}"', where=f'query "{query}"')
        values = fuse_scores([base[passage] for passage in scores], list(scores.values()), method, weight)
        fused[query] = dict(zip(scores, values))
    return fused


def choose_weight(
    first: Run,
    reranker: Run,
    qrels: Qrels,
    metric: str = "nDCG@10",
    *,
    method: str = "zscore",
    grid: Sequence[float] = WEIGHTS,
) -> Choice:
    """Choose the reranker's weight by ``metric`` on development queries; equal values go to the smaller weight.

    ``qrels`` must hold development queries only: a weight chosen on judged ones makes the result too good.
    """
    if not qrels:
        raise UserError("the fusion weight needs development queries, got none", hint="--fusion_weight 1.0")
    curve = {
        weight: mean(evaluate_run(qrels, fuse_runs(first, reranker, method, weight), [metric])[metric])
        for weight in sorted(grid)
    }
    best = max(curve, key=lambda weight: (round(curve[weight], 9), -weight))
    return Choice(best, curve[best], curve)


def _ranks(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(1.0 + (values[None, :] > values[:, None]).sum(axis=1), dtype=np.float64)
