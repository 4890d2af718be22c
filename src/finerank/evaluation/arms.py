"""The arms of a comparison: models are loaded and each gets its run over a judged set. Rows: ``row_arms``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finerank.core.errors import UserError
from finerank.core.protocols import Retriever
from finerank.core.runs import Qrels, Run
from finerank.data.console import progress, say, warn
from finerank.data.sources import Judged
from finerank.evaluation.fusion import choose_weight, fuse_runs
from finerank.evaluation.fusion_store import Fusion, query_digests, save_fusion, stored_or_given
from finerank.evaluation.metrics import canonical
from finerank.evaluation.plan import BM25, Kind, Planned, fused, over
from finerank.evaluation.ranking import rerank_run, search_run
from finerank.evaluation.report import Values
from finerank.evaluation.significance import Interval
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.dense import DenseRetriever


@dataclass(frozen=True)
class ArmOptions:
    """How arms are made; ``weight`` None chooses it.

    Attributes:
        encoder, scorer: arguments of the loaders, a reranker's by its name.
    """

    top_k: int = 100
    fusion: str = "none"
    weight: float | None = None
    metric: str = "nDCG@10"
    cache: Path | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    scorer: Callable[[str], Mapping[str, Any]] = lambda name: {}


@dataclass(frozen=True)
class Loaded(Planned):
    """A planned model with its weights; ``model`` is None for BM25."""

    model: Any

    def fingerprint(self) -> str:
        if self.model is None:
            return BM25
        if self.searches:
            compared = "cosine" if self.model.cosine else "dot"
            return f"{self.model.fingerprint('query')} {self.model.fingerprint('passage')} {compared}"
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
    seconds: dict[str, float] = field(default_factory=dict)

    def resolve(self, baseline: str | None) -> str | None:
        """Return the arm that ``--baseline`` means: a name as shown, or a model's path."""
        return self.names.get(baseline, baseline) if baseline is not None else None

    def add(self, name: str, run: Run, path: str, **facts: object) -> None:
        self.runs[name] = run
        self.facts[name] = {key: str(value) for key, value in facts.items()}
        self.names.setdefault(path, name)

    def took(self, name: str, started: float) -> None:
        """Say and keep how long an arm took; it is no part of the result, which is the same every time."""
        self.seconds[name] = round(time.monotonic() - started, 1)
        say(f"{name}: {self.seconds[name]:g} s")


def load_models(plan: Sequence[Planned], options: ArmOptions) -> list[Loaded]:
    """Load each planned model once."""
    return [
        Loaded(item.path, item.name, item.kind, item.first, item.own, _load(item.path, item.kind, options))
        for item in plan
    ]


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
        arms.add(model.name, run, model.path, **model.describe())
        arms.took(model.name, started)
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
    name = over(model.name, first)
    started = time.monotonic()
    run = _rerank(model, judged, arms.runs[first], options, name)
    arms.add(name, run, model.path, **model.describe())
    arms.took(name, started)
    arms.comparisons.append((name, first))
    if options.fusion == "none":
        return
    fusion = _fusion(arms, model, first, retriever, judged, dev, options)
    both = fused(model.name, first, fusion.fusion, fusion.weight)
    arms.add(both, fuse_runs(arms.runs[first], run, fusion.fusion, fusion.weight), both)
    arms.comparisons.append((both, first))


def _fusion(
    arms: Arms, model: Loaded, first: str, retriever: Retriever, judged: Judged, dev: Judged | None, options: ArmOptions
) -> Fusion:
    """Return the fusion to use: the given weight, one chosen on ``dev``, or the stored one."""
    if options.weight is not None:
        return Fusion(options.fusion, options.weight, first_stage=first)
    if dev is None:
        fusion = stored_or_given(model.path, options.fusion, None, first, judged.queries)
        _weight_note(arms, model.name, fusion)
        return fusion
    found = search_run(retriever, dev, options.top_k, drop_zero=first == BM25)
    scored = _rerank(model, dev, found, options, f"{over(model.name, first)}, dev")
    metric = canonical(options.metric)
    choice = choose_weight(found, scored, dev.qrels, metric, method=options.fusion)
    fusion = Fusion(options.fusion, choice.weight, metric, len(dev.qrels), first, query_digests(dev.queries))
    say(f"{model.name} + {first}: weight {choice.weight:g}, dev {metric} {choice.value:.4f}")
    _weight_note(arms, model.name, fusion)
    _store(model.path, fusion)
    return fusion


def _weight_note(arms: Arms, name: str, fusion: Fusion) -> None:
    if fusion.seen is not None:
        arms.notes.append(
            f"The weight {fusion.weight:g} of {name} + {fusion.first_stage} was chosen by {fusion.metric} on "
            f"{fusion.queries:,} development queries, none of them judged here."
        )


def _store(path: str, fusion: Fusion) -> None:
    """Store a weight with its model; where that cannot be, say so and go on: the scoring is worth more."""
    use = f"give it as --fusion_weight {fusion.weight:g}"
    if not Path(path).is_dir():
        warn(f"{path} is no local folder, so the fusion weight is not stored with it; {use}")
        return
    try:
        save_fusion(path, fusion)
    except (OSError, UserError) as error:
        reason = error.message if isinstance(error, UserError) else error.strerror or error
        warn(f"the fusion weight could not be stored with {path}: {reason}; {use}")


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
    device = "cuda" if str(model.model.device).startswith("cuda") else "cpu"
    with progress(len(judged.passages), f"{model.name}: encode", "passages") as update:
        return DenseRetriever(
            model.model, judged.passages, cache=options.cache, cosine=model.model.cosine, device=device, progress=update
        )


def _load(path: str, kind: Kind | None, options: ArmOptions) -> Any:
    if kind is None:
        return None
    from finerank.models.load import load_encoder, load_scorer

    if kind == "reranker":
        return load_scorer(path, **options.scorer(path))
    return load_encoder(path, **options.encoder)
