"""The arms of a comparison: models are loaded and each gets its run over a judged set. Rows: ``row_arms``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finerank.batching.row_prompts import Prompts, no_prompts
from finerank.core.errors import UserError
from finerank.core.protocols import Progress, Retriever
from finerank.core.runs import Qrels, Run
from finerank.data.console import progress, say, warn
from finerank.data.manifest import digest_file
from finerank.data.sources import Judged
from finerank.evaluation.costs import Cost
from finerank.evaluation.fusion import choose_weight, fuse_runs
from finerank.evaluation.fusion_store import Fusion, query_digests, save_fusion, stored_or_given
from finerank.evaluation.metrics import canonical
from finerank.evaluation.pair_scores import CachedScorer
from finerank.evaluation.plan import BM25, Kind, Planned, fused, over
from finerank.evaluation.ranking import rerank_run, search_run
from finerank.evaluation.report import Values
from finerank.evaluation.significance import Interval
from finerank.evaluation.trec_runs import NOTE as RUN_NOTE
from finerank.evaluation.trec_runs import judged_part, ties_note
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.dense import DenseRetriever


@dataclass(frozen=True)
class ArmOptions:
    """How arms are made; ``weight`` None chooses it.

    Attributes:
        calibrates: score the development queries for a threshold, too.
        encoder, scorer: arguments of the loaders, a reranker's by its name.
        prompts: what rows put around the texts that a model reads: by its name and whether it is an embedder.
    """

    top_k: int = 100
    fusion: str = "none"
    weight: float | None = None
    metric: str = "nDCG@10"
    calibrates: bool = False
    cache: Path | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    scorer: Callable[[str], Mapping[str, Any]] = lambda name: {}
    prompts: Callable[[str, bool], Prompts] = lambda name, embeds: no_prompts


@dataclass(frozen=True)
class Loaded(Planned):
    """A planned model with its weights, or a run with its lists; ``model`` is None for BM25."""

    model: Any

    def fingerprint(self) -> str:
        if self.model is None:
            return BM25
        if self.kind == "run":
            return digest_file(self.path)
        if self.searches:
            compared = "cosine" if self.model.cosine else "dot"
            return f"{self.model.fingerprint('query')} {self.model.fingerprint('passage')} {compared}"
        return str(self.model.fingerprint())

    def describe(self) -> dict[str, Any]:
        """Return the facts of a banner, without the name."""
        if self.model is None:
            return {"words": "English stop words left out, identifiers split"}
        if self.kind == "run":
            return {"file": Path(self.path).name, "queries": len(self.model)}
        return {key: value for key, value in self.model.describe().items() if key != "model"}


@dataclass
class Arms:
    """Runs by arm name, and what a report says about them.

    Attributes:
        reranked: arm of a reranker -> the arm of its first stage; of rows, itself.
        dev: arm of a reranker -> its run over the development queries, if there are any.
        fusions: what was used: (model, first stage) -> fusion.
        costs: without seconds where an arm is made of others' scores only.
    """

    qrels: Qrels
    runs: dict[str, Run] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    comparisons: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Values] = field(default_factory=dict)
    overall: dict[str, dict[str, Interval]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reranked: dict[str, str] = field(default_factory=dict)
    dev: dict[str, Run] = field(default_factory=dict)
    fusions: dict[tuple[str, str], Fusion] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

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


@dataclass(frozen=True)
class First:
    """A first stage: a retriever over the corpus, or the lists of a run."""

    model: Loaded
    retriever: Retriever | None

    @property
    def name(self) -> str:
        return self.model.name

    def candidates(self, judged: Judged, k: int, progress: Progress | None = None) -> Run:
        """Return at least ``k`` passages of each judged query, where there are so many."""
        if self.retriever is None:
            return judged_part(self.model.model, judged.qrels, self.name)
        return search_run(self.retriever, judged, k, progress, drop_zero=self.model.model is None)


def load_models(plan: Sequence[Planned], options: ArmOptions, runs: Mapping[str, Run] | None = None) -> list[Loaded]:
    """Load each planned model once; ``runs``: path -> run, of the plan's runs."""
    return [
        Loaded(
            item.path, item.name, item.kind, item.first, item.own,
            (runs or {})[item.path] if item.kind == "run" else _load(item.path, item.kind, options),
        )
        for item in plan
    ]  # fmt: skip


def judged_arms(
    models: Sequence[Loaded],
    judged: Judged,
    dev: Judged | None,
    options: ArmOptions,
    fusions: Mapping[tuple[str, str], Fusion] | None = None,
) -> Arms:
    """Make the arms of a judged set: first stages, runs, embedders, then each reranker over each first stage.

    Args:
        dev: queries to choose fusion weights and thresholds on, disjoint from ``judged``; None takes stored weights.
        fusions: weights that were chosen elsewhere: (model, first stage) -> fusion.
    """
    arms = Arms(judged.qrels, fusions=dict(fusions or {}))
    firsts = [first for model in models if model.searches and (first := _search(arms, model, judged, options))]
    for model in (item for item in models if not item.searches):
        for first in firsts:
            _reranked(arms, model, first, judged, dev, options)
    if firsts and arms.comparisons:
        arms.notes.append(
            f"Rerankers score the first stage's top {options.top_k} only; relevant passages that it missed stay missed."
        )
    runs = [model.name for model in models if model.kind == "run"]
    arms.notes += [note for name in runs if (note := ties_note(arms.runs[name], name))]
    arms.notes += [RUN_NOTE] if runs else []
    return arms


def _search(arms: Arms, model: Loaded, judged: Judged, options: ArmOptions) -> First | None:
    """Add the arm of what searches; return it if it is a first stage."""
    started = time.monotonic()
    found = First(model, None if model.kind == "run" else _retriever(model, judged, options))
    indexed = time.monotonic()
    with progress(len(judged.queries), f"{model.name}: search", "queries") as update:
        run = found.candidates(judged, options.top_k, update)
    arms.add(model.name, run, model.path, **model.describe())
    if model.kind != "run":
        arms.took(model.name, started)
        texts = 0 if model.model is None else len(judged.passages) + len(judged.queries)
        arms.costs[model.name] = Cost(0, texts, indexed - started, time.monotonic() - indexed)
    return found if model.first else None


def _reranked(arms: Arms, model: Loaded, first: First, judged: Judged, dev: Judged | None, options: ArmOptions) -> None:
    """Add the arm of a reranker over one first stage, and that of their fusion."""
    name = over(model.name, first.name)
    started = time.monotonic()
    run, seconds = _rerank(model, judged, arms.runs[first.name], options, name)
    arms.add(name, run, model.path, **model.describe())
    arms.took(name, started)
    before = arms.costs.get(first.name, Cost())
    pairs = sum(map(len, run.values()))
    arms.costs[name] = Cost(pairs, before.texts, before.index_seconds, before.seconds + seconds)
    arms.comparisons.append((name, first.name))
    arms.reranked[name] = first.name
    if options.fusion == "none" and not (options.calibrates and dev):
        return
    chosen_here = options.weight is None and (model.name, first.name) not in arms.fusions
    if dev is not None and (options.calibrates or chosen_here):
        found = first.candidates(dev, options.top_k)
        arms.dev[name], _ = _rerank(model, dev, found, options, f"{name}, dev")
        if options.fusion != "none" and chosen_here:
            arms.fusions[model.name, first.name] = _choose(arms, model, first.name, found, arms.dev[name], dev, options)
    if options.fusion == "none":
        return
    fusion = _fusion(arms, model, first.name, judged, options)
    both = fused(model.name, first.name, fusion.fusion, fusion.weight)
    arms.add(both, fuse_runs(arms.runs[first.name], run, fusion.fusion, fusion.weight), both)
    arms.costs[both] = arms.costs[name]
    arms.comparisons.append((both, first.name))


def _fusion(arms: Arms, model: Loaded, first: str, judged: Judged, options: ArmOptions) -> Fusion:
    """Return the fusion to use: one chosen before, the given weight, or the stored one."""
    if (model.name, first) not in arms.fusions:
        fusion = stored_or_given(model.path, options.fusion, options.weight, first, judged.queries)
        arms.fusions[model.name, first] = fusion
        _weight_note(arms, model.name, fusion)
    return arms.fusions[model.name, first]


def _choose(arms: Arms, model: Loaded, first: str, found: Run, scored: Run, dev: Judged, options: ArmOptions) -> Fusion:
    """Choose the weight on development queries, and store it with the model."""
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


def _rerank(model: Loaded, judged: Judged, first: Run, options: ArmOptions, label: str) -> tuple[Run, float]:
    """Return the reranked run and the seconds that its pairs take."""
    scorer = CachedScorer(model.model, options.cache)
    total = sum(min(options.top_k, len(first.get(query, {}))) for query in judged.query_ids)
    with progress(total, label, "pairs") as update:
        return rerank_run(scorer, judged, first, options.top_k, update), scorer.seconds


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
