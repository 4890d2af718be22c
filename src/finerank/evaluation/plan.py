"""What a comparison will consist of, known before any model is loaded: its models, their parts, its arms' names.

Whatever can be wrong with a command line is found here, not after the hours that scoring takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finerank.core.errors import UsageError, did_you_mean
from finerank.data.trec import run_names
from finerank.evaluation.fusion_store import stored_or_given

Kind = Literal["embedder", "reranker", "run"]
BM25 = "bm25"
GENERIC = ("best", "checkpoint", "final", "merged", "model", "output")
OPEN = "w="


@dataclass(frozen=True)
class Planned:
    """A model or a TREC run and its part: ``first`` has candidates for rerankers, ``own`` was asked for by name."""

    path: str
    name: str
    kind: Kind | None
    first: bool
    own: bool

    @property
    def searches(self) -> bool:
        return self.kind != "reranker"


def plan_models(
    models: Sequence[str],
    first_stages: Sequence[str],
    baseline: str | None,
    cache_dir: str | None = None,
    runs: Sequence[str] = (),
) -> list[Planned]:
    """Name each model once, in the order given; before them first stages, runs and a baseline not among the models.

    Rerankers without a first stage get bm25. A first stage that is a file is a TREC run.
    """
    kinds: dict[str, Kind | None] = {BM25: None}
    kinds.update(dict.fromkeys([*runs, *(path for path in first_stages if Path(path).is_file())], "run"))
    known = [*models, *first_stages, *runs, *run_names(runs).values()]
    extra = [baseline] if baseline is not None and _is_model(baseline, known) else []
    asked = list(dict.fromkeys([*first_stages, *runs, *extra, *models]))
    for path in asked:
        if path not in kinds:
            kinds[path] = _kind(path, cache_dir)
    for path in first_stages:
        if kinds[path] == "reranker":
            raise UsageError(f"--first_stage {path} is a reranker", hint="--first_stage bm25, or an embedder")
    firsts = list(first_stages)
    if not firsts and "reranker" in kinds.values():
        firsts = [BM25]
    order = list(dict.fromkeys([*(path for path in firsts if path not in models), *runs, *extra, *models]))
    return [Planned(path, name, kinds[path], path in firsts, path in asked) for path, name in _names(order, kinds)]


def _names(order: Sequence[str], kinds: Mapping[str, Kind | None]) -> list[tuple[str, str]]:
    """Return each path with its name, in order."""
    models = [path for path in order if kinds[path] != "run"]
    names = dict(zip(models, short_names(models)))
    names.update(run_names([path for path in order if kinds[path] == "run"], set(names.values())))
    return [(path, names[path]) for path in order]


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last part of each path (two parts if the last is a word such as "model"), or all of it if not unique.

    >>> short_names(["a/e5", "b/e5", "runs/tuned/model", "org/base"])
    ['a/e5', 'b/e5', 'tuned/model', 'base']
    """
    last = ["/".join(Path(path).parts[-(2 if Path(path).name in GENERIC else 1) :]) or path for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths)]


def over(model: str, first: str) -> str:
    """Return the name of a reranker's arm over a first stage."""
    return f"{model} over {first}"


def fused(model: str, first: str, fusion: str, weight: float | None) -> str:
    """Return the name of a fusion's arm; without the weight where it is still to be chosen."""
    return f"{model} + {first} ({fusion}, {OPEN}" + ("" if weight is None else f"{weight:g})")


def fusion_pairs(plan: Sequence[Planned], *, rows: bool) -> list[tuple[Planned, Planned]]:
    """Return each reranker with each first stage; of rows only those that are arms of their own."""
    firsts = [model for model in plan if model.first and (model.own or not rows)]
    return [(model, first) for model in plan if not model.searches for first in firsts]


def check_plan(
    plan: Sequence[Planned],
    judged: Sequence[str],
    *,
    fusion: str,
    weight: float | None,
    baseline: str | None,
    rows: bool,
    chooses: bool,
) -> None:
    """Raise UserError if a fusion has no weight that may be used, or the baseline is no arm.

    Args:
        judged: texts of the judged queries.
        chooses: the weight is going to be chosen on development queries.
    """
    names = [model.name for model in plan if model.searches and (model.own or not rows)]
    if rows:
        names += [model.name for model in plan if not model.searches]
    else:
        names += [over(model.name, first.name) for model, first in fusion_pairs(plan, rows=False)]
    if fusion != "none":
        names += _fused_names(plan, judged, fusion, weight, rows, chooses)
    paths = [model.path for model in plan if model.own or not rows]
    if baseline is None or baseline in [*names, *paths]:
        return
    if not any(name.endswith(OPEN) and baseline.startswith(name) for name in names):
        shown = [f"{name}…)" if name.endswith(OPEN) else name for name in names]
        raise UsageError(
            f'no arm is called "{baseline}"{did_you_mean(baseline, names)}', hint=f"arms: {', '.join(shown)}"
        )


def _fused_names(
    plan: Sequence[Planned], judged: Sequence[str], fusion: str, weight: float | None, rows: bool, chooses: bool
) -> list[str]:
    pairs = fusion_pairs(plan, rows=rows)
    if all(model.searches for model in plan):
        raise UsageError(
            "--fusion joins a reranker with its first stage, and there is no reranker", hint="-m RERANKER, too"
        )
    if not pairs:
        raise UsageError("--fusion on rows needs a first stage", hint="--first_stage bm25, or an embedder")
    if chooses:
        return [fused(model.name, first.name, fusion, None) for model, first in pairs]
    return [
        fused(model.name, first.name, fusion, stored_or_given(model.path, fusion, weight, first.name, judged).weight)
        for model, first in pairs
    ]


def _kind(path: str, cache_dir: str | None) -> Kind:
    from finerank.models.families import is_reranker

    return "reranker" if is_reranker(path, cache_dir) else "embedder"


def _is_model(name: str, known: Sequence[str]) -> bool:
    """Say whether ``--baseline`` names a model to add: bm25 or a folder, not already there, and not an arm's name."""
    if name in known or name in short_names(known):
        return False
    return name == BM25 or Path(name).is_dir()
