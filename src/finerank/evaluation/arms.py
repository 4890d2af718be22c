"""The arms of a comparison: models are loaded and each gets its run over a judged set. Rows: ``row_arms``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finerank.core.errors import UsageError
from finerank.core.protocols import Retriever
from finerank.core.runs import Qrels, Run
from finerank.data.console import progress, say
from finerank.data.sources import Judged
from finerank.evaluation.fusion import Fusion, choose_weight, fuse_runs, save_fusion, stored_or_given
from finerank.evaluation.metrics import canonical
from finerank.evaluation.ranking import rerank_run, search_run
from finerank.evaluation.report import Values
from finerank.evaluation.significance import Interval
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.dense import DenseRetriever

Kind = Literal["embedder", "reranker"]
BM25 = "bm25"
GENERIC = ("best", "checkpoint", "final", "merged", "model", "output")


@dataclass(frozen=True)
class ArmOptions:
    """How arms are made; ``weight`` None chooses it, ``encoder`` and ``scorer`` are arguments of the loaders."""

    top_k: int = 100
    fusion: str = "none"
    weight: float | None = None
    metric: str = "nDCG@10"
    cache: Path | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    scorer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A model and its part: ``first`` finds candidates for rerankers, ``own`` was asked for by name."""

    path: str
    name: str
    kind: Kind | None
    model: Any
    first: bool
    own: bool

    @property
    def searches(self) -> bool:
        return self.kind != "reranker"

    def fingerprint(self) -> str:
        if self.model is None:
            return BM25
        if self.searches:
            return f"{self.model.fingerprint('query')} {self.model.fingerprint('passage')}"
        return str(self.model.fingerprint())

    def describe(self) -> dict[str, Any]:
        """Return the facts of a banner, without the name."""
        if self.model is None:
            return {"words": "English stop words left out, identifiers split"}
        return {key: value for key, value in self.model.describe().items() if key != "model"}


@dataclass
class Arms:
    """Runs by arm name, and what a report says about them."""

    qrels: Qrels
    runs: dict[str, Run] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    comparisons: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Values] = field(default_factory=dict)
    overall: dict[str, dict[str, Interval]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def resolve(self, baseline: str | None) -> str | None:
        """Return the arm that ``--baseline`` means: a name as shown, or a model's path."""
        return self.names.get(baseline, baseline) if baseline is not None else None

    def add(self, name: str, run: Run, path: str, **facts: object) -> None:
        self.runs[name] = run
        self.facts[name] = {key: str(value) for key, value in facts.items()}
        self.names.setdefault(path, name)


def load_models(
    models: Sequence[str], first_stages: Sequence[str], baseline: str | None, options: ArmOptions
) -> list[Loaded]:
    """Load each named model once, in the order given; before them first stages and a baseline not among the models.

    Rerankers without a first stage get bm25.
    """
    kinds: dict[str, Kind | None] = {BM25: None}
    cache_dir = options.encoder.get("cache_dir")
    extra = [baseline] if baseline is not None and _is_model(baseline, [*models, *first_stages]) else []
    asked = list(dict.fromkeys([*first_stages, *extra, *models]))
    for path in asked:
        kinds.setdefault(path, None if path == BM25 else _kind(path, cache_dir))
    for path in first_stages:
        if kinds[path] == "reranker":
            raise UsageError(f"--first_stage {path} is a reranker", hint="--first_stage bm25, or an embedder")
    firsts = list(first_stages)
    if not firsts and "reranker" in kinds.values():
        firsts = [BM25]
    order = list(dict.fromkeys([*(path for path in firsts if path not in models), *extra, *models]))
    return [
        Loaded(path, name, kinds[path], _load(path, kinds[path], options), path in firsts, path in asked)
        for path, name in zip(order, short_names(order))
    ]


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last part of each path (two parts if the last is a word such as "model"), or all of it if not unique.

    >>> short_names(["a/e5", "b/e5", "runs/tuned/model", "org/base"])
    ['a/e5', 'b/e5', 'tuned/model', 'base']
    """
    last = ["/".join(Path(path).parts[-(2 if Path(path).name in GENERIC else 1) :]) or path for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths)]


def judged_arms(models: Sequence[Loaded], judged: Judged, dev: Judged | None, options: ArmOptions) -> Arms:
    """Make the arms of a judged set: first stages, other embedders, then each reranker over each first stage.

    Args:
        dev: queries to choose fusion weights on, disjoint from ``judged``; None takes stored weights.
    """
    arms = Arms(judged.qrels)
    retrievers: dict[str, Retriever] = {}
    for model in (item for item in models if item.searches):
        started = time.monotonic()
        retriever = _retriever(model, judged, options)
        with progress(len(judged.queries), f"{model.name}: search", "queries") as update:
            run = search_run(retriever, judged, options.top_k, update, drop_zero=model.model is None)
        arms.add(model.name, run, model.path, seconds=f"{time.monotonic() - started:.1f}", **model.describe())
        if model.first:
            retrievers[model.name] = retriever
    for model in (item for item in models if not item.searches):
        for first, retriever in retrievers.items():
            _reranked(arms, model, first, retriever, judged, dev, options)
    _recall_note(arms, retrievers, options)
    return arms


def _reranked(
    arms: Arms, model: Loaded, first: str, retriever: Retriever, judged: Judged, dev: Judged | None, options: ArmOptions
) -> None:
    """Add the arm of a reranker over one first stage, and that of their fusion."""
    name = f"{model.name} over {first}"
    started = time.monotonic()
    run = _rerank(model, judged, arms.runs[first], options, name)
    arms.add(name, run, model.path, seconds=f"{time.monotonic() - started:.1f}", **model.describe())
    arms.comparisons.append((name, first))
    if options.fusion == "none":
        return
    fusion = _fusion(arms, model, first, retriever, dev, options)
    fused = f"{model.name} + {first} ({fusion.fusion}, w={fusion.weight:g})"
    arms.add(fused, fuse_runs(arms.runs[first], run, fusion.fusion, fusion.weight), fused)
    arms.comparisons.append((fused, first))


def _fusion(
    arms: Arms, model: Loaded, first: str, retriever: Retriever, dev: Judged | None, options: ArmOptions
) -> Fusion:
    """Return the fusion to use: the given weight, one chosen on ``dev``, or the stored one."""
    if options.weight is not None or dev is None:
        return stored_or_given(model.path, options.fusion, options.weight, first, arms.notes)
    found = search_run(retriever, dev, options.top_k, drop_zero=first == BM25)
    scored = _rerank(model, dev, found, options, f"{model.name} over {first}, dev")
    metric = canonical(options.metric)
    choice = choose_weight(found, scored, dev.qrels, metric, method=options.fusion)
    fusion = Fusion(options.fusion, choice.weight, metric, len(dev.qrels), first)
    say(f"{model.name} + {first}: weight {choice.weight:g}, dev {metric} {choice.value:.4f}")
    arms.notes.append(
        f"The weight {choice.weight:g} of {model.name} + {first} was chosen by {metric} on {len(dev.qrels):,} "
        "development queries, none of them judged here."
    )
    if Path(model.path).is_dir():
        save_fusion(model.path, fusion)
    return fusion


def _rerank(model: Loaded, judged: Judged, first: Run, options: ArmOptions, label: str) -> Run:
    total = sum(min(options.top_k, len(first.get(query, {}))) for query in judged.query_ids)
    with progress(total, label, "pairs") as update:
        return rerank_run(model.model, judged, first, options.top_k, update)


def _recall_note(arms: Arms, retrievers: dict[str, Retriever], options: ArmOptions) -> None:
    if retrievers and arms.comparisons:
        arms.notes.append(
            f"Rerankers score the first stage's top {options.top_k} only; relevant passages that it missed stay missed."
        )


def _retriever(model: Loaded, judged: Judged, options: ArmOptions) -> Retriever:
    if model.model is None:
        return Bm25Retriever(judged.passages)
    # the same rule as mining: cosine, unless the model's own configuration says inner product
    cosine = model.model.model.similarity_fn_name != "dot"
    device = "cuda" if str(model.model.device).startswith("cuda") else "cpu"
    with progress(len(judged.passages), f"{model.name}: encode", "passages") as update:
        return DenseRetriever(
            model.model, judged.passages, cache=options.cache, cosine=cosine, device=device, progress=update
        )


def _kind(path: str, cache_dir: str | None) -> Kind:
    from finerank.models.load import family_of

    return "reranker" if family_of(path, cache_dir) == "cross_encoder" else "embedder"


def _load(path: str, kind: Kind | None, options: ArmOptions) -> Any:
    if kind is None:
        return None
    from finerank.models.load import load_encoder, load_scorer

    if kind == "reranker":
        return load_scorer(path, **options.scorer)
    return load_encoder(path, **options.encoder)


def _is_model(name: str, known: Sequence[str]) -> bool:
    """Say whether ``--baseline`` names a model to add: bm25 or a folder, not already there, and not an arm's name."""
    if name in known or name in short_names(known):
        return False
    return name == BM25 or Path(name).is_dir()
