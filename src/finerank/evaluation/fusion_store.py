"""Fusion weights stored with a model: one per first stage, each with the queries it was chosen on.

A weight that was chosen on the very queries it is then judged by makes the result too good. So each one carries a
digest of every query it saw, and it is refused where one of them is judged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finerank.core.errors import UsageError, UserError
from finerank.core.records import is_number
from finerank.data.text import digest, normal_form

FILE_NAME = "finerank_fusion.json"
METHODS = ("none", "zscore", "rrf")
DEFAULT_WEIGHT = 1.0
CHOOSE = "finerank evaluate --dev_split dev chooses one, --fusion_weight 1.0 gives one"


@dataclass(frozen=True)
class Fusion:
    """A fusion as it is used, and as it is stored with a model.

    Attributes:
        fusion: ``zscore``, ``rrf`` or ``none``.
        weight: of the reranker; the first stage has 1.
        metric, queries, first_stage: what the weight was chosen by, on how many queries, over whose candidates.
        seen: digests of those queries in normal form; None where nobody wrote them down.
    """

    fusion: str = "zscore"
    weight: float = DEFAULT_WEIGHT
    metric: str = ""
    queries: int = 0
    first_stage: str = ""
    seen: tuple[str, ...] | None = field(default=None, repr=False)


def query_digests(queries: Iterable[str]) -> tuple[str, ...]:
    """Return what stands for queries in a store: sorted, distinct, the same for texts that a reader takes as one."""
    return tuple(sorted({digest(normal_form(query)) for query in queries}))


def save_fusion(folder: str | Path, fusion: Fusion) -> Path:
    """Store a fusion beside the model's weights, in place of the one of the same method and first stage."""
    from finerank.data.outputs import write_atomic

    path = Path(folder) / FILE_NAME
    place = (fusion.first_stage, fusion.fusion)
    others = [item for item in load_fusions(folder) if (item.first_stage, item.fusion) != place]
    stored = sorted([*others, fusion], key=lambda item: (item.first_stage, item.fusion))
    content = {"fusions": [asdict(item) for item in stored]}
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return path


def load_fusions(folder: str | Path) -> list[Fusion]:
    """Return the fusions stored with a model; a model that is no local folder has none."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return []
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"not a JSON object: {error}", where=str(path)) from None
    items = content.get("fusions") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise UserError('expected {"fusions": […]}', where=str(path), hint=f"rm {path}; {CHOOSE}")
    return [_parse(item, path) for item in items]


def stored_or_given(
    model: str, method: str, weight: float | None, first: str | None = None, judged: Iterable[str] | None = None
) -> Fusion:
    """Return the fusion to use: the weight that was given, else the one stored with the model for this first stage.

    Args:
        first: name of the first stage; None takes the only one that is stored.
        judged: the queries that the result will be judged by; None where nothing is judged.

    Raises:
        UserError: if neither is there (reciprocal ranks then count both sides the same), or if the stored weight
            was chosen on judged queries.
    """
    if weight is not None:
        return Fusion(method, weight, first_stage=first or "")
    stored = _stored(model, method, first)
    if stored is None:
        return Fusion(method, DEFAULT_WEIGHT, first_stage=first or "")
    if judged is not None:
        _check_unseen(stored, judged, model)
    return stored


def _stored(model: str, method: str, first: str | None) -> Fusion | None:
    found = [item for item in load_fusions(model) if item.fusion == method]
    fitting = [item for item in found if first is None or item.first_stage == first]
    if len(fitting) > 1:
        names = ", ".join(f"{item.first_stage} (w={item.weight:g})" for item in fitting)
        raise UsageError(
            f"{model} holds {method} weights over several first stages: {names}",
            hint=f"--first_stage {fitting[0].first_stage} says whose scores these are",
        )
    if fitting:
        return fitting[0]
    if method == "rrf":
        return None
    others = f" over {first} (there is one over {', '.join(item.first_stage for item in found)})" if found else ""
    raise UserError(f"no {method} weight{others} is stored with {model}", hint=CHOOSE)


def _check_unseen(fusion: Fusion, judged: Iterable[str], model: str) -> None:
    """Raise UserError if the weight was, or may have been, chosen on a judged query."""
    weight = f"the weight {fusion.weight:g} over {fusion.first_stage or 'its first stage'} stored with {model}"
    if fusion.seen is None:
        raise UserError(f"{weight} does not say which queries it was chosen on", hint=CHOOSE)
    judged = list(judged)
    shared = set(fusion.seen) & set(query_digests(judged))
    if shared:
        raise UserError(
            f"{weight} was chosen on {len(shared):,} of the {len(judged):,} queries that are judged here, so its "
            "result would be too good",
            hint=CHOOSE,
        )


def _parse(item: Any, path: Path) -> Fusion:
    known = item if isinstance(item, dict) else {}
    method, weight, seen = known.get("fusion"), known.get("weight", math.nan), known.get("seen")
    if method not in METHODS or not is_number(weight) or not (seen is None or isinstance(seen, list)):
        expected = '"fusion": zscore or rrf, "weight": a number and "seen": digests or null'
        raise UserError(f"a stored fusion must hold {expected}", where=str(path), hint=f"rm {path}; {CHOOSE}")
    return Fusion(
        fusion=method,
        weight=float(weight),
        metric=str(known.get("metric", "")),
        queries=int(known.get("queries", 0)),
        first_stage=str(known.get("first_stage", "")),
        seen=None if seen is None else tuple(map(str, seen)),
    )
