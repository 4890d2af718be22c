"""What training watches: a few ranking figures of the model as it is now, on rows or judged sets held out.

Each function returns a callable without arguments, to be called again and again while the model changes; it gives each
figure's value per query, in the same order each time. Nothing is cached between two calls but what does not depend on
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finerank.batching.groups import GroupMaker
from finerank.batching.row_prompts import Prompts, no_prompts
from finerank.core.errors import UsageError
from finerank.core.protocols import Encoder, Scorer
from finerank.core.records import Row
from finerank.core.runs import Qrels, Run
from finerank.core.watch_options import HIDDEN
from finerank.data.console import progress
from finerank.data.sources import Judged, is_judged, read_judged, read_rows
from finerank.evaluation.fusion import choose_weight, fuse_runs
from finerank.evaluation.fusion_store import Fusion, query_digests
from finerank.evaluation.metrics import evaluate_run
from finerank.evaluation.ranking import rerank_run, score_groups, search_run, vector_groups
from finerank.evaluation.rows import lay_out
from finerank.evaluation.score_shapes import ends_of, shape, to_mapping
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.dense import DenseRetriever

Figures = dict[str, list[float]]
"""Figure -> its value for each judged query, in the order of the queries."""
Measure = Callable[[], Figures]

FIGURES = {"nDCG@10": "nDCG@10", "MRR": "MRR", "accuracy": "Success@1"}
"""Name in the log -> metric. ``accuracy``: the best passage is relevant.

On rows a tie counts as wrong: equal scores put the negatives first. On a judged set ties go by passage id.
"""
DECISIVE = "nDCG@10"
"""What a first stage is compared by, and a fusion's weight chosen by."""
FUSIONS = ("zscore", "rrf")
RELEVANT, OTHERS = f"{HIDDEN}relevant", f"{HIDDEN}others"
"""Names of the scores beside the figures."""
MOST_SCORES = 2_000
"""Scores of each kind that are kept, equally far from each other in rank."""
LABEL = "evaluating"
SEARCH_DEPTH = 100
POOL_NEGATIVES = 31
"""Random passages that a held-out row without negatives is ranked against."""


def measure_on(
    model: Any,
    paths: Sequence[str],
    split: str,
    first_stage: Callable[[], Encoder | None],
    depth: int,
    flag: str,
    prompts: Prompts = no_prompts,
) -> Measure:
    """Return what measures an embedder or a reranker, as it is at each call, on rows or on one judged folder.

    Args:
        first_stage: opens the embedder whose best ``depth`` passages a reranker orders; None stands for BM25.
        flag: the option that named ``paths``.
        prompts: what rows say is put around their texts.

    Raises:
        UsageError: for several judged folders, or one beside rows.
    """
    reranker = not hasattr(model, "encode")
    judged = [path for path in paths if is_judged(path)]
    if not judged:
        return rows_measure(read_rows(paths), **{"scorer" if reranker else "encoder": model}, prompts=prompts)
    if len(paths) > 1:
        raise UsageError(f"{flag} takes row files, or one judged folder", hint=f"{flag} {judged[0]}")
    held_out = read_judged(judged[0], split)
    return RerankMeasure(model, held_out, first_stage(), depth) if reranker else search_measure(model, held_out)


class Scores:
    """Scores of relevant passages and of others, as the latest measurement gave them: for the training's page."""

    def __init__(self) -> None:
        self.relevant: list[float] = []
        self.others: list[float] = []

    def note(self, qrels: Qrels, run: Run) -> None:
        """Take the scores of a run."""
        kinds: tuple[list[float], list[float]] = ([], [])
        for query, grades in qrels.items():
            for passage, score in run.get(query, {}).items():
                kinds[grades.get(passage, 0) <= 0].append(float(score))
        self.relevant, self.others = map(_spread, kinds)

    def values(self) -> Figures:
        """Return them as values that are no figures."""
        return {RELEVANT: self.relevant, OTHERS: self.others} if self.relevant and self.others else {}


def shapes(base: Figures, best: Figures) -> dict[str, Any]:
    """Return the shapes of the scores before and after training on one axis, as far as they are known."""
    found = {name: values for name, values in (("base", base), ("best", best)) if RELEVANT in values}
    every = [score for values in found.values() for kind in (RELEVANT, OTHERS) for score in values[kind]]
    drawn = {name: shape(values[RELEVANT], values[OTHERS], ends_of(every)) for name, values in found.items()}
    return to_mapping({name: each for name, each in drawn.items() if each is not None})


def rows_measure(
    rows: Sequence[Row],
    *,
    scorer: Scorer | None = None,
    encoder: Encoder | None = None,
    scores: Scores | None = None,
    prompts: Prompts = no_prompts,
) -> Measure:
    """Rank every row's passages by a reranker, or by the similarity of an embedder; exactly one of them is given.

    Args:
        scores: takes each measurement's scores.
        prompts: what rows say is put around their texts, as in a training on them.
    """
    kept = scores or Scores()
    row_set = lay_out(_with_negatives(rows))
    pairs, groups = row_set.pairs(), row_set.groups(prompts)

    def measure() -> Figures:
        if scorer is not None:
            with progress(len(set(pairs)), LABEL, "pairs") as update:
                found = score_groups(scorer, groups, update)
        else:
            distinct = len({query for query, _ in pairs}) + len({passage for _, passage in pairs})
            with progress(distinct, LABEL) as update:
                found = vector_groups(_needed(encoder), groups, progress=update)
        run = row_set.run(found)
        kept.note(row_set.qrels, run)
        return figures(row_set.qrels, run)

    return measure


def search_measure(encoder: Encoder, judged: Judged, scores: Scores | None = None) -> Measure:
    """Search the whole corpus of a judged set with an embedder; ``scores`` takes each measurement's."""
    kept = scores or Scores()

    def measure() -> Figures:
        with progress(len(judged.passages), LABEL) as update:
            retriever = DenseRetriever(encoder, judged.passages, cosine=encoder.cosine, progress=update)
        run = search_run(retriever, judged, SEARCH_DEPTH)
        kept.note(judged.qrels, run)
        return figures(judged.qrels, run)

    return measure


@dataclass(frozen=True)
class Beside:
    """What a tuned reranker stands beside.

    Attributes:
        name: of the first stage.
        first: its own figures, over the candidates that were reranked.
        fused: those of both together, by z-scores at the weight that was best on these queries.
        fusions: the best weight of every way to fuse, as they are stored with a model.
    """

    name: str
    first: Figures
    fused: Figures
    fusions: tuple[Fusion, ...]


class RerankMeasure:
    """Reranks the first stage's ``depth`` best passages of every judged query; they are found once.

    Args:
        first_stage: an embedder, or None for BM25.
        name: what the first stage is called where a fusion's weight is stored.
        scores: takes each measurement's scores.
    """

    def __init__(
        self,
        scorer: Scorer,
        judged: Judged,
        first_stage: Encoder | None,
        depth: int,
        name: str = "bm25",
        scores: Scores | None = None,
    ) -> None:
        retriever = (
            Bm25Retriever(judged.passages)
            if first_stage is None
            else DenseRetriever(first_stage, judged.passages, cosine=first_stage.cosine)
        )
        self.scorer = scorer
        self.judged = judged
        self.depth = depth
        self.name = name
        self.scores = scores or Scores()
        self.first_run = search_run(retriever, judged, depth)
        self.first = figures(judged.qrels, self.first_run)
        self._latest: tuple[Run, Figures] = ({}, {})

    def __call__(self) -> Figures:
        """Measure the reranker as it is now."""
        with progress(sum(map(len, self.first_run.values())), LABEL, "pairs") as update:
            run = rerank_run(self.scorer, self.judged, self.first_run, self.depth, update)
        self.scores.note(self.judged.qrels, run)
        self._latest = run, figures(self.judged.qrels, run)
        return self._latest[1]

    def beside(self, tuned: Figures) -> Beside:
        """Compare the reranker, as it is now and with the figures ``tuned``, with its first stage; fuse the two.

        The pairs are scored again unless the latest measurement had the same figures.
        """
        if any(tuned.get(name) != values for name, values in self._latest[1].items()) or not self._latest[0]:
            self()
        run, qrels = self._latest[0], self.judged.qrels
        seen = query_digests(self.judged.queries)
        chosen = {kind: choose_weight(self.first_run, run, qrels, DECISIVE, method=kind) for kind in FUSIONS}
        fusions = tuple(
            Fusion(kind, choice.weight, DECISIVE, len(qrels), self.name, seen) for kind, choice in chosen.items()
        )
        together = fuse_runs(self.first_run, run, FUSIONS[0], chosen[FUSIONS[0]].weight)
        return Beside(self.name, self.first, figures(qrels, together), fusions)


def figures(qrels: Qrels, run: Run) -> Figures:
    """Return each figure's values over the judged queries."""
    values = evaluate_run(qrels, run, list(FIGURES.values()))
    return {name: [values[metric][query] for query in qrels] for name, metric in FIGURES.items()}


def _with_negatives(rows: Sequence[Row]) -> list[Row]:
    """Give rows without negatives random passages of the others; a fixed draw, the same at every evaluation."""
    if all(row.negatives for row in rows):
        return list(rows)
    groups = GroupMaker(rows, POOL_NEGATIVES + 1, seed=0)
    return [
        row if row.negatives else replace(row, negatives=tuple(dict.fromkeys(groups.group(0, index).passages[1:])))
        for index, row in enumerate(rows)
    ]


def _spread(scores: Sequence[float]) -> list[float]:
    """Return at most ``MOST_SCORES``, in order."""
    order = sorted(scores)
    if len(order) <= MOST_SCORES:
        return order
    return [order[(2 * place + 1) * len(order) // (2 * MOST_SCORES)] for place in range(MOST_SCORES)]


def _needed(encoder: Encoder | None) -> Encoder:
    if encoder is None:
        raise ValueError("either a scorer or an encoder is needed")
    return encoder
