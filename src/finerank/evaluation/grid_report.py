"""``ablate --dataset``: reads the judged folder, runs the grid, writes quality beside cost as text, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from finerank.core.ablate_options import AblateOptions
from finerank.core.options import semantic
from finerank.core.outcomes import Outcome
from finerank.core.protocols import Scorer
from finerank.data.console import banner, say, table
from finerank.data.judged import Judged, read_judged
from finerank.data.manifest import parts_of
from finerank.data.sources import inputs_of
from finerank.evaluation.ablation_models import encoder_of, scorer_of, space_of
from finerank.evaluation.claims import Claims, check_places, claim
from finerank.evaluation.costs import ms_per_query
from finerank.evaluation.grid import NONE, Measured, Pipeline, grid, measure, names_of, parse_diverse
from finerank.evaluation.metrics import canonical
from finerank.evaluation.plan import BM25
from finerank.evaluation.ranking import drawn
from finerank.evaluation.report import Report, build_report, report_data
from finerank.evaluation.report_html import render
from finerank.evaluation.report_text import text_of as report_text
from finerank.retrieval.diverse import weights

DEPTH = 100
NOTES = (
    "A pipeline's time is added up from parts measured once: its search, its diverse choice, its own pairs at "
    "the reranker's time per pair. Indexing and encoding the corpus are not in it; vectors of queries are where the "
    "cache lacks them.",
    "A reranker returns what it has scored; relevant passages that its list misses stay missed.",
)


def run_grid(options: AblateOptions) -> Outcome:
    """Compare every pipeline of the grid on the folder's queries."""
    assert options.dataset is not None
    output, page = options.result_path(), options.page_path()
    check_places({"output_file": output, "report": page, "run_dir": options.run_dir}, [options.dataset])
    metrics = options.metrics or ["nDCG@10", "MRR@10", f"Recall@{max(options.depth or [DEPTH])}"]
    for metric in metrics:
        canonical(metric)
    pipelines = pipelines_of(options)
    judged = read_judged(options.dataset, options.split)
    judged = drawn(judged, options.limit, options.seed)
    encoders = {path: encoder_of(options, path) for path in firsts_of(options) if path != BM25}
    scorers = {path: scorer_of(options, path) for path in dict.fromkeys(options.reranker) if path != NONE}
    prints = {path: f"{model.fingerprint('query')} {model.fingerprint('passage')}" for path, model in encoders.items()}
    prints |= {path: model.fingerprint() for path, model in scorers.items()}
    parts = parts_of("ablate", semantic(options), inputs_of([options.dataset], split=options.split), prints, output)
    with ExitStack() as stack:
        claims = claim(
            parts, result=output, page=page, run_dir=options.run_dir, overwrite=options.overwrite, stack=stack
        )
        if claims.done:
            say(f"{output} is done already; --overwrite runs it again")
            data = orjson.loads(Path(output).read_bytes())
            return Outcome(grid_text(data), data)
        _banner(options, judged, pipelines)
        measured = _measured(options, judged, pipelines, encoders, scorers)
        report = _report(options, judged, measured, metrics)
        return _write(options, claims, report, measured, judged)


def firsts_of(options: AblateOptions) -> list[str]:
    """Return the first stages asked for."""
    return list(dict.fromkeys(options.first_stage or [options.embedder or BM25]))


def pipelines_of(options: AblateOptions) -> list[Pipeline]:
    """Return the grid that the options span."""
    usual = weights(options.lambda1, options.lambda2, options.lambda3)
    rerankers = [None if path == NONE else path for path in options.reranker or [NONE]]
    return grid(firsts_of(options), parse_diverse(options.diverse, usual), rerankers, options.depth or [DEPTH])


def grid_text(data: Mapping[str, Any], latency: Mapping[str, float] | None = None) -> str:
    """Return the table of quality and cost, then the comparison's tables."""
    metrics = (data["metrics"] + [""])[:3]
    rows = []
    for found in data["grid"]:
        arm = next(arm for arm in data["arms"] if arm["name"] == found["arm"])
        ms = (latency or {}).get(found["arm"], found["latency_ms"])
        rows.append(
            [
                found["arm"], *(f"{arm['metrics'][metric]['mean']:.3f}" for metric in metrics if metric),
                f"{found['pairs_per_query']:.0f}", "" if ms is None else f"{ms:.1f}",
            ]
        )  # fmt: skip
    heads = ["pipeline", *(metric for metric in metrics if metric), "pairs a query", "ms a query"]
    return f"{table(heads, rows)}\n\n{report_text(data)}"


def _measured(
    options: AblateOptions, judged: Judged, pipelines: Sequence[Pipeline], encoders: Mapping[str, Any],
    scorers: Mapping[str, Scorer],
) -> Measured:  # fmt: skip
    spaces = {path: space_of(options, encoders.get(path), judged.passages) for path in firsts_of(options)}
    return measure(pipelines, judged, spaces, scorers, options.pool_factor)


def _report(options: AblateOptions, judged: Judged, measured: Measured, metrics: Sequence[str]) -> Report:
    """Compare the pipelines; each reranker's also with the list that it saw."""
    by_pipeline = {item: name for name, item in measured.pipelines.items()}
    pairs = [
        (name, by_pipeline[item.before])
        for name, item in measured.pipelines.items()
        if item.reranker is not None and item.before in by_pipeline
    ]
    queries = len(judged.queries)
    return build_report(
        measured.runs,
        judged.qrels,
        dict(zip(judged.query_ids, judged.queries)),
        dict(zip(judged.passage_ids, judged.passages)),
        metrics=metrics,
        baseline=options.baseline,
        comparisons=pairs,
        title=f"Ablation on {judged.name}, {options.split}",
        notes=list(NOTES),
        facts={name: {"pairs a query": f"{count / queries:.4g}"} for name, count in measured.pairs.items()},
        seed=options.seed,
    )


def _write(options: AblateOptions, claims: Claims, report: Report, measured: Measured, judged: Judged) -> Outcome:
    """Write runs, page and result; the result lands last."""
    queries = len(judged.queries)
    latency = {name: ms_per_query(seconds, queries) for name, seconds in measured.seconds.items()}
    cells = [
        {
            "arm": name, "first_stage": item.first, "diverse": None if item.diverse is None else list(item.diverse),
            "reranker": item.reranker, "depth": item.depth, "pairs_scored": measured.pairs[name],
            "pairs_per_query": measured.pairs[name] / queries,
            "latency_ms": latency[name] if options.record_times else None,
        }
        for name, item in measured.pipelines.items()
    ]  # fmt: skip
    data = report_data(report) | {"dataset": judged.name, "split": options.split, "grid": cells}
    counts = {"queries": queries, "pipelines": len(cells)}
    if claims.runs is not None and not claims.runs.done:
        claims.runs.write(judged.qrels, measured.runs)
        say(f"TREC runs: {options.run_dir}")
    if claims.page is not None and not claims.page.done:
        claims.page.write_whole(_page(report, data, measured, latency).encode(), counts)
        say(f"report: {options.page_path()}")
    if claims.result is not None and not claims.result.done:
        more = {"latency_ms": latency, "report": options.page_path(), "run_dir": options.run_dir}
        json = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        claims.result.write_whole(json, counts, more)
        say(f"result: {options.result_path()}")
    return Outcome(grid_text(data, latency), data)


def _timed(report: Report, latency: Mapping[str, float]) -> Report:
    """Return the report with each arm's time among its facts: for the page, which is read and not compared."""
    arms = [replace(arm, facts={**arm.facts, "ms a query": f"{latency[arm.name]:g}"}) for arm in report.arms]
    return replace(report, arms=arms)


def _page(report: Report, data: Mapping[str, Any], measured: Measured, latency: Mapping[str, float]) -> str:
    """Return the page, with each pipeline's cost beside its quality."""
    queries = max(1, report.query_count)
    more = {
        "cost": {name: {"pairs_per_query": measured.pairs[name] / queries} for name in latency},
        "times": {name: {"ms_per_query": each} for name, each in latency.items()},
    }
    return render(_timed(report, latency), data={**data, **more}, kind="finerank ablate")


def _banner(options: AblateOptions, judged: Judged, pipelines: Sequence[Pipeline]) -> None:
    banner(
        f"ablate {options.result_path()}",
        {
            "data": f"{options.dataset}, {options.split}",
            "queries": len(judged.queries),
            "passages": len(judged.passages),
            "pipelines": len(pipelines),
            **{f"{place:,}": name for place, name in enumerate(names_of(pipelines), start=1)},
        },
    )
