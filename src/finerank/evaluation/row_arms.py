"""The arms of a row set: every model scores every passage of every row."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finerank.core.seeding import DEFAULT_SEED
from finerank.data.console import progress
from finerank.data.row_index import kind_of
from finerank.evaluation.arms import ArmOptions, Arms, Loaded
from finerank.evaluation.costs import Cost
from finerank.evaluation.fusion import fuse_runs
from finerank.evaluation.fusion_store import stored_or_given
from finerank.evaluation.pair_scores import CachedScorer
from finerank.evaluation.plan import fused, fusion_pairs
from finerank.evaluation.ranking import bm25_rows, score_groups, vector_groups
from finerank.evaluation.rows import RowSet, best_threshold, pair_figures, row_accuracies

COSINE_BOUNDARY = 0.5
NOTES = (
    "Ranking metrics of rows are pessimistic about ties; AUC and pair accuracy count ties half.",
    "Precision, recall and F1 take a pair as relevant above 0.5 of a reranker's sigmoid, above cosine 0.5 of an "
    "embedder, above 0 of BM25 and of inner products; best F1 takes the best threshold on these very rows, so it is "
    "optimistic.",
)


def row_arms(models: Sequence[Loaded], row_set: RowSet, options: ArmOptions, *, seed: int = DEFAULT_SEED) -> Arms:
    """Make an arm of every model that was asked for, and of the fusions of rerankers with named first stages."""
    arms = Arms(row_set.qrels, notes=[*NOTES, *_prompted_note(row_set)])
    asked = [model for model in models if model.own]

    for model in asked:
        started = time.monotonic()
        scores, seconds = _scored(model, row_set, options)
        by_cosine = model.searches and model.model is not None and model.model.cosine
        boundary = COSINE_BOUNDARY if by_cosine else 0.0
        arms.add(model.name, row_set.run(scores), model.path, **model.describe())
        add_figures(arms, model.name, row_set, scores, boundary, seed)
        arms.took(model.name, started)
        arms.costs[model.name] = _cost(model, row_set, seconds)
        if not model.searches:
            arms.reranked[model.name] = model.name
    if options.fusion != "none":
        _fuse(arms, asked, row_set, options, seed)
    return arms


def _prompted_note(row_set: RowSet) -> list[str]:
    count = sum(kind_of(row).prompted for row in row_set.rows)
    if not count:
        return []
    return [
        f"{count:,} of {len(row_set.rows):,} rows bring an instruction of their own. It is read as in training: by an "
        "embedder in the place of its own; by a reranker in the place of --query_instruction_for_rerank and "
        "--passage_instruction_for_rerank, where given; a prompted language model reads a row's prompt behind the pair."
    ]


def _cost(model: Loaded, row_set: RowSet, seconds: float) -> Cost:
    if not model.searches:
        return Cost(pairs=len(set(row_set.pairs())), seconds=seconds)
    texts = len(set(row_set.queries.values())) + len(set(row_set.passages.values()))
    return Cost(texts=0 if model.model is None else texts, seconds=seconds)


def score_rows(model: Loaded, row_set: RowSet, options: ArmOptions) -> NDArray[np.float32]:
    """Score a row set's pairs [P]."""
    return _scored(model, row_set, options)[0]


def _scored(model: Loaded, row_set: RowSet, options: ArmOptions) -> tuple[NDArray[np.float32], float]:
    """Return scores [P] and the seconds that they take."""
    started = time.monotonic()
    if model.model is None:
        return bm25_rows(row_set), time.monotonic() - started
    groups = row_set.groups(options.prompts(model.path, model.searches))
    if model.searches:
        with progress(len(set(row_set.queries.values())) + len(set(row_set.passages.values())), model.name) as update:
            return vector_groups(model.model, groups, options.cache, update), time.monotonic() - started
    scorer = CachedScorer(model.model, options.cache)
    with progress(len(set(row_set.pairs())), model.name, "pairs") as update:
        return score_groups(scorer, groups, update), scorer.seconds


def add_figures(
    arms: Arms, name: str, row_set: RowSet, scores: NDArray[np.float32], boundary: float, seed: int
) -> None:
    """Add what is no ranking metric: accuracies of pairs, figures over all pairs, the best threshold."""
    arms.facts[name]["best threshold"] = f"{best_threshold(row_set, scores):.4g}"
    arms.values[name] = {metric: found for metric, found in row_accuracies(row_set, arms.runs[name]).items() if found}
    arms.overall[name] = pair_figures(row_set, scores, boundary=boundary, seed=seed)


def _fuse(arms: Arms, asked: Sequence[Loaded], row_set: RowSet, options: ArmOptions, seed: int) -> None:
    judged = list(row_set.queries.values())
    for model, first in fusion_pairs(asked, rows=True):
        fusion = stored_or_given(model.path, options.fusion, options.weight, first.name, judged)
        name = fused(model.name, first.name, fusion.fusion, fusion.weight)
        run = fuse_runs(arms.runs[first.name], arms.runs[model.name], fusion.fusion, fusion.weight)
        arms.add(name, run, name)
        arms.comparisons += [(name, first.name), (name, model.name)]
        flat = np.array([score for scores in run.values() for score in scores.values()], dtype=np.float32)
        add_figures(arms, name, row_set, flat, 0.0, seed)
