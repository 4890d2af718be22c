"""A reranker and its first stage together: z-score fusion, reciprocal ranks, and the choice of the weight.

A small reranker often does not beat a well-tuned first stage alone but does so with it. Both lists are the same
candidates; each side's scores are standardised per query, so that logits and cosines can be added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finerank.core.errors import UserError
from finerank.core.records import is_number
from finerank.core.runs import Qrels, Run
from finerank.evaluation.metrics import evaluate_run, mean

FILE_NAME = "finerank_fusion.json"
METHODS = ("none", "zscore", "rrf")
RRF_K = 60
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DEFAULT_WEIGHT = 1.0


@dataclass(frozen=True)
class Fusion:
    """A fusion as it is stored with a model.

    Attributes:
        fusion: ``zscore``, ``rrf`` or ``none``.
        weight: of the reranker; the first stage has 1.
        metric, queries, first_stage: what the weight was chosen by, on how many queries, over whose candidates.
    """

    fusion: str = "zscore"
    weight: float = DEFAULT_WEIGHT
    metric: str = ""
    queries: int = 0
    first_stage: str = ""


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


def save_fusion(folder: str | Path, fusion: Fusion) -> Path:
    """Store a fusion beside the model's weights; return the file."""
    from finerank.data.outputs import write_atomic

    path = Path(folder) / FILE_NAME
    write_atomic(path, (json.dumps(asdict(fusion), indent=2, ensure_ascii=False) + "\n").encode())
    return path


def load_fusion(folder: str | Path) -> Fusion | None:
    """Return the fusion stored with a model, or None; a model that is no local folder has none."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"not a JSON object: {error}", where=str(path)) from None
    known = content if isinstance(content, dict) else {}
    fusion, weight = known.get("fusion", "zscore"), known.get("weight", math.nan)
    if fusion not in METHODS or not is_number(weight):
        expected = '{"fusion": "zscore" or "rrf", "weight": a number}'
        raise UserError(f"a stored fusion must hold {expected}", where=str(path), hint=f"rm {path}")
    return Fusion(
        fusion=fusion,
        weight=float(weight),
        metric=str(known.get("metric", "")),
        queries=int(known.get("queries", 0)),
        first_stage=str(known.get("first_stage", "")),
    )


def stored_or_given(
    model: str, method: str, weight: float | None, first: str = "", notes: list[str] | None = None
) -> Fusion:
    """Return the fusion to use: the weight that was given, else the one stored with the model.

    Args:
        first: name of the first stage; a stored weight that was chosen over another one is said in ``notes``.

    Raises:
        UserError: if neither is there (reciprocal ranks then count both sides the same).
    """
    if weight is not None:
        return Fusion(method, weight, first_stage=first)
    stored = load_fusion(model)
    if stored is not None and stored.fusion == method:
        if stored.first_stage and first and stored.first_stage != first and notes is not None:
            notes.append(f"The stored weight {stored.weight:g} was chosen over {stored.first_stage}, not {first}.")
        return stored
    if method == "rrf":
        return Fusion("rrf", DEFAULT_WEIGHT, first_stage=first)
    raise UserError(
        f"no {method} weight is stored with {model}",
        hint="--fusion_weight 1.0 gives one, finerank evaluate --dev_split dev chooses one",
    )


def _ranks(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(1.0 + (values[None, :] > values[:, None]).sum(axis=1), dtype=np.float64)
