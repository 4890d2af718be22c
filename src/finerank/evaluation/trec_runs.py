"""TREC runs of any tool as arms, and as first stages: read as trec_eval reads them.

trec_eval keeps a score as a 32-bit float and orders equal ones by passage id, descending; so do we. It leaves out
judged queries that a run misses unless it is called with ``-c``; here they always count 0, as with ``-c``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finerank.core.errors import UsageError, UserError
from finerank.core.runs import Qrels, Run, top
from finerank.data.console import warn
from finerank.data.judged import Judged
from finerank.data.trec import read_run
from finerank.evaluation.plan import Planned

TOP = 10
MANY_TIED = 0.1
"""Share of a run's queries with ties at the top from which on it is said."""
NOTE = (
    "TREC runs are ordered as trec_eval orders them: by score as a 32-bit float, equal ones by passage id, descending. "
    "Judged queries that a run misses count 0 (trec_eval -c)."
)


def load_runs(plan: Sequence[Planned]) -> dict[str, Run]:
    """Read the plan's runs: path -> run."""
    return {item.path: single_precision(read_run(item.path)) for item in plan if item.kind == "run"}


def single_precision(run: Run) -> Run:
    """Return a run with its scores as 32-bit floats, which is how trec_eval compares them."""
    rounded: Run = {}
    for query, scores in run.items():
        values = np.array(list(scores.values()), dtype=np.float64).astype(np.float32)
        rounded[query] = dict(zip(scores, map(float, values)))
    return rounded


def judged_part(run: Run, qrels: Qrels, name: str) -> Run:
    """Return a run's judged queries, in the order of the qrels; say how many it misses."""
    found = {query: run[query] for query in qrels if query in run}
    missed = len(qrels) - len(found)
    if missed:
        warn(f"{name} misses {missed:,} of the {len(qrels):,} judged queries; they count 0")
    return found


def ties_note(run: Run, name: str) -> str | None:
    """Say it if scores that were rounded leave the order of the best passages to their ids; None if few do.

    >>> ties_note({"q": {"a": 1.0, "b": 1.0}}, "peer")
    'peer has equal scores among the 10 best passages of 1 of 1 queries: ids order those, not the ranks in its file.'
    """
    tied = sum(len({*best.values()}) < len(best) for best in (top(scores, TOP) for scores in run.values()))
    if tied < MANY_TIED * len(run):
        return None
    return (
        f"{name} has equal scores among the {TOP} best passages of {tied:,} of {len(run):,} queries: ids order those, "
        "not the ranks in its file."
    )


def check_runs(
    runs: Mapping[str, Run], plan: Sequence[Planned], judged: Judged, dev: Judged | None, depth: int
) -> None:
    """Raise UserError for runs of other queries, and for first stages whose passages have no text here.

    Args:
        dev: queries to choose something on, which a first stage must have candidates for.
        depth: how many candidates a reranker is going to score.
    """
    reranks = any(item.kind == "reranker" for item in plan)
    texts = set(judged.passage_ids)
    for item in (item for item in plan if item.kind == "run"):
        run = runs[item.path]
        if not judged.qrels.keys() & run.keys():
            raise UserError(
                f"holds none of the {len(judged.qrels):,} judged queries: it has {_few(list(run))}, judged are "
                f"{_few(list(judged.qrels))}",
                where=item.path,
            )
        if not (item.first and reranks):
            continue
        _check_texts(run, judged, depth, texts, item.path)
        if dev is not None:
            if not dev.qrels.keys() & run.keys():
                raise UserError(
                    "the first stage has no candidates for the development queries",
                    where=item.path,
                    hint="--first_stage bm25, or leave --dev_split out",
                )
            _check_texts(run, dev, depth, texts, item.path)


def check_data(plan: Sequence[Planned], *, rows: bool, texts: bool) -> None:
    """Raise UsageError for runs over rows, and for models over a file of qrels."""
    runs = [item.path for item in plan if item.kind == "run"]
    models = [item.path for item in plan if item.kind != "run"]
    if rows and runs:
        raise UsageError(
            f"the run {runs[0]} needs judged queries, got rows", hint="--data FOLDER with corpus.jsonl, or a qrels file"
        )
    if not rows and not texts and models:
        raise UsageError(
            f"a qrels file holds no texts, and {models[0]} needs them",
            hint="--data FOLDER --qrels FILE, or --runs alone",
        )


def _check_texts(run: Run, judged: Judged, depth: int, texts: set[str], path: str) -> None:
    lost = [name for query in judged.query_ids for name in top(run.get(query, {}), depth) if name not in texts]
    if lost:
        raise UserError(
            f"{len(set(lost)):,} of the first stage's passages are not in corpus.jsonl, {lost[0]} for one",
            where=path,
            hint="rerank the collection that the run is from, or judge the run alone: --runs",
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
