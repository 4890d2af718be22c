"""``finerank evaluate``: which model is better on these queries, by how much, and can it be believed?

Reads a judged set or rows, gives every model its arm (an embedder searches, a reranker re-orders a first stage's
candidates, a fusion of both is an arm of its own) and writes one report: text, JSON, HTML, TREC runs.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finerank.core.errors import UsageError
from finerank.core.fusion_weight import parse_weight
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.reranker_options import RerankerModelOptions
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.data.sources import Judged
    from finerank.evaluation.arms import ArmOptions, Arms, Loaded
    from finerank.evaluation.claims import Claims
    from finerank.evaluation.plan import Planned
    from finerank.evaluation.report import Report
    from finerank.evaluation.rows import RowSet

JUDGED_METRICS = ["nDCG@10", "MRR@10", "MAP"]


@dataclass(frozen=True)
class Task:
    """What is judged: a judged set, with development queries if a weight is to be chosen, or rows."""

    judged: Judged | None = None
    dev: Judged | None = None
    rows: RowSet | None = None

    @property
    def queries(self) -> list[str]:
        return self.judged.queries if self.judged is not None else list(self.rows.queries.values() if self.rows else [])


@dataclass(kw_only=True)
class EvaluateOptions(RerankerModelOptions, ModelOptions):
    """Options of ``finerank evaluate``."""

    model_name_or_path: list[str] = option(
        [], "models to compare: embedders and rerankers, local folders or hub names", metavar="M"
    )
    data: list[str] = option(
        help="a judged folder (corpus.jsonl, queries.jsonl, qrels/) or rows: files and folders", metavar="D"
    )
    sub_data_name: str | None = sub_data_name_option()
    split: str = split_option("test")
    output_file: str | None = option(
        None, "JSON to write: figures, tests, values per query", metavar="OUT.json", semantic=False
    )
    report: str | None = option(None, "HTML page to write, self-contained", metavar="OUT.html", semantic=False)
    run_dir: str | None = option(
        None, "folder to write one TREC run per arm and the qrels to", metavar="DIR", semantic=False
    )
    top_k: int = option(100, "passages per query: what a search returns and a reranker scores", ge=1)
    first_stage: list[str] = option(
        [],
        "what finds the candidates that rerankers score: bm25 or an embedder; several give several arms "
        "(default: bm25 if there is a reranker)",
        metavar="bm25|M",
    )
    baseline: str | None = option(
        None, "the arm that the others are tested against: bm25, a model or an arm's name (default: the first arm)"
    )
    metrics: list[str] = option(
        [],
        "e.g. nDCG@10 MRR@10 MAP Recall@100 hit@1; the first is the headline (default: nDCG@10 MRR@10 MAP and "
        "Recall@top_k; for rows their ranking and pair figures)",
    )
    fusion: Literal["none", "zscore", "rrf"] = option(
        "none", "add an arm that joins each reranker with its first stage: per-query z-scores, or reciprocal ranks"
    )
    fusion_weight: str = option(
        "auto",
        "weight of the reranker against 1 for the first stage; auto: chosen on --dev_split and stored with the "
        "model, or the stored one",
        metavar="W|auto",
    )
    dev_split: str | None = option(
        None, "qrels split that auto chooses the weight on; queries that are judged here are left out of it"
    )
    max_len: int | None = option(None, "tokens of a reranker's query and passage together (default: the model's)", ge=4)
    query_max_len: int | None = option(None, "tokens of a query (default: the model's)", ge=3)
    passage_max_len: int | None = option(None, "tokens of a passage (default: the model's)", ge=3)
    query_instruction_for_retrieval: str | None = option(
        None, "text put before each query of an embedder; without it, the model's own prompt"
    )
    query_instruction_format_for_retrieval: str = option(
        "{}{}", "how that text (first {}) and a query (second {}) are joined"
    )
    strip_titles: bool = option(
        False, "rows: judge them once more without their passages' title lines, lest a title gives the answer away"
    )
    limit: int | None = option(None, "evaluate only the first N queries or rows", ge=1)
    embedding_cache: str = option(
        "auto",
        "folder of vectors kept between runs; auto: $FINERANK_CACHE/vectors, else ~/.cache/finerank/vectors; none",
        metavar="DIR|auto|none",
        semantic=False,
    )
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    sample_queries: int = option(20, "queries shown side by side in the HTML page", ge=0)
    seed: int = option(DEFAULT_SEED, "seed of the intervals, the tests and the sample", ge=0)
    overwrite: bool = option(
        False, "replace an output, a page or runs made with other options or inputs", semantic=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UsageError("evaluate needs --data", hint="finerank evaluate --help")
        parse_weight(self.fusion_weight)
        if not self.model_name_or_path and not self.first_stage:
            raise UsageError("evaluate needs a model", hint="-m MODEL, or --first_stage bm25")


def run(options: EvaluateOptions) -> Outcome:
    """Compare the models and write what was asked for; whatever can be wrong is found before a model is loaded."""
    from finerank.evaluation.arms import load_models
    from finerank.evaluation.claims import check_places
    from finerank.evaluation.metrics import canonical

    check_places({flag: getattr(options, flag) for flag in ("output_file", "report", "run_dir")}, options.data)
    for metric in options.metrics:
        canonical(metric)
    task = _read(options)
    plan = _plan(options, task)
    models = load_models(plan, arm_options(options))
    with ExitStack() as stack:
        claims = _claim(options, models, stack)
        if claims.done and options.output_file is not None:
            return _stored(options.output_file)
        _banner(options, models, task)
        report, arms, extra = _judged(options, models, task) if task.judged else _rows(options, models, task)
        return _write(options, claims, report, arms, extra)


def _read(options: EvaluateOptions) -> Task:
    from finerank.data.sources import is_judged, read_rows
    from finerank.evaluation.rows import lay_out

    judged = [path for path in options.data if is_judged(path)]
    if judged and len(options.data) > 1:
        raise UsageError(f"one judged folder at a time, got {len(options.data)} inputs", hint=f"--data {judged[0]}")
    if judged:
        if options.strip_titles:
            raise UsageError("--strip_titles is for rows, got a judged folder", hint="leave --strip_titles out")
        return _read_judged(options)
    if options.dev_split is not None:
        raise UsageError("--dev_split needs a judged folder, got rows", hint="--fusion_weight 1.0")
    rows = read_rows(options.data, sub_data_name=options.sub_data_name, split=options.split, limit=options.limit)
    return Task(rows=lay_out(rows))


def _read_judged(options: EvaluateOptions) -> Task:
    from finerank.data.sources import read_judged
    from finerank.evaluation.ranking import unseen, without

    judged = read_judged(options.data[0], options.split)
    if options.limit is not None:
        judged = without(judged, judged.query_ids[options.limit :])
    if options.dev_split is None or options.fusion == "none" or parse_weight(options.fusion_weight) is not None:
        return Task(judged)
    dev = unseen(read_judged(options.data[0], options.dev_split), judged)
    if not dev.query_ids:
        raise UsageError(f"--dev_split {options.dev_split} holds no query that --split {options.split} does not judge")
    return Task(judged, dev)


def _plan(options: EvaluateOptions, task: Task) -> list[Planned]:
    from finerank.evaluation.plan import check_plan, plan_models

    plan = plan_models(options.model_name_or_path, options.first_stage, options.baseline, options.cache_dir)
    check_plan(
        plan,
        task.queries,
        fusion=options.fusion,
        weight=parse_weight(options.fusion_weight),
        baseline=options.baseline,
        rows=task.rows is not None,
        chooses=task.dev is not None,
    )
    return plan


def _claim(options: EvaluateOptions, models: Sequence[Loaded], stack: ExitStack) -> Claims:
    """Claim the result, the page and the runs, all of them made by the same options, data and models."""
    from finerank.data.manifest import parts_of
    from finerank.data.sources import inputs_of
    from finerank.evaluation.claims import Claims, claim

    first = options.output_file or options.report or options.run_dir
    if first is None:
        return Claims()
    inputs = inputs_of(options.data, sub_data_name=options.sub_data_name, split=options.split)
    parts = parts_of("evaluate", semantic(options), inputs, _fingerprints(options, models), first)
    return claim(
        parts,
        result=options.output_file,
        page=options.report,
        run_dir=options.run_dir,
        overwrite=options.overwrite,
        stack=stack,
    )


def arm_options(options: EvaluateOptions) -> ArmOptions:
    """Return what the arms need to know."""
    from finerank.batching.prompts import format_prompt
    from finerank.evaluation.arms import ArmOptions
    from finerank.models.reranker_arguments import scorer_arguments
    from finerank.retrieval.vectors import cache_folder

    instruction = options.query_instruction_for_retrieval
    prompt = None if instruction is None else format_prompt(instruction, options.query_instruction_format_for_retrieval)
    loading = {name: getattr(options, name) for name in ("device", "dtype", "cache_dir", "trust_remote_code")}
    lengths = {name: getattr(options, name) for name in ("query_max_len", "passage_max_len")}
    pairs = loading | lengths | {"max_len": options.max_len, "peft_path": options.reranker_peft_path}
    return ArmOptions(
        top_k=options.top_k, fusion=options.fusion, weight=parse_weight(options.fusion_weight),
        metric=(options.metrics or JUDGED_METRICS)[0], cache=cache_folder(options.embedding_cache),
        encoder=loading | lengths | {"query_prompt": prompt},
        scorer=lambda name: pairs | scorer_arguments(options, name, options.cache_dir),
    )  # fmt: skip


def _judged(options: EvaluateOptions, models: Sequence[Loaded], task: Task) -> tuple[Report, Arms, dict[str, Any]]:
    from finerank.evaluation.arms import judged_arms
    from finerank.evaluation.report import build_report

    judged = task.judged
    assert judged is not None
    arms = judged_arms(models, judged, task.dev, arm_options(options))
    report = build_report(
        arms.runs,
        judged.qrels,
        dict(zip(judged.query_ids, judged.queries)),
        dict(zip(judged.passage_ids, judged.passages)),
        metrics=options.metrics or [*JUDGED_METRICS, f"Recall@{options.top_k}"],
        baseline=arms.resolve(options.baseline),
        comparisons=arms.comparisons,
        title=f"{judged.name}, {options.split}",
        notes=arms.notes,
        facts=arms.facts,
        sample_queries=options.sample_queries,
        seed=options.seed,
    )
    return report, arms, {"data": judged.name, "split": options.split}


def _rows(options: EvaluateOptions, models: Sequence[Loaded], task: Task) -> tuple[Report, Arms, dict[str, Any]]:
    from finerank.evaluation.row_layout import one_model
    from finerank.evaluation.row_report import RowTask, judge_rows
    from finerank.evaluation.rows import METRICS

    assert task.rows is not None
    how = options.baseline, f"rows of {', '.join(options.data)}", options.seed, options.sample_queries
    asked = RowTask(options.metrics or METRICS, *how, titles=options.strip_titles)
    tested = judge_rows(models, task.rows, arm_options(options), asked)
    found = {"data": options.data, **tested.data()}
    named = [model for model in models if model.path in options.model_name_or_path]
    if len(named) == 1 and not options.metrics and not options.first_stage and options.fusion == "none":
        found["flat"] = one_model(tested, named[0].name, named[0].path, options.data)
    return tested.report, tested.arms, found


def _write(options: EvaluateOptions, claims: Claims, report: Report, arms: Arms, extra: dict[str, Any]) -> Outcome:
    """Write what is not done yet; the result lands last, so that a done result has its page and runs."""
    from finerank.data.console import say
    from finerank.evaluation import report_html
    from finerank.evaluation.report import report_data
    from finerank.evaluation.report_text import report_text
    from finerank.evaluation.row_layout import shaped
    from finerank.evaluation.row_report import beside_text

    counts = {"queries": report.query_count, "arms": len(report.arms)}
    flat = extra.pop("flat", None)
    data = report_data(report) | extra
    outcome = Outcome(report_text(report) + beside_text(data), data if flat is None else shaped(data, flat))
    if claims.runs is not None and not claims.runs.done:
        claims.runs.write(arms.qrels, arms.runs)
        say(f"TREC runs: {options.run_dir}")
    if claims.page is not None and not claims.page.done:
        claims.page.write_whole(report_html.render(report).encode(), counts)
        say(f"report: {options.report}")
    if claims.result is not None and not claims.result.done:
        more = {"seconds_per_arm": arms.seconds, "report": options.report, "run_dir": options.run_dir}
        claims.result.write_whole(_json(outcome.data), counts, more)
    return outcome


def _fingerprints(options: EvaluateOptions, models: Sequence[Loaded]) -> dict[str, str]:
    """Name what decides the result beside options and data; a stored weight does, unless it is chosen anew."""
    found = {model.path: model.fingerprint() for model in models}
    if options.fusion != "none" and options.fusion_weight == "auto" and options.dev_split is None:
        from finerank.evaluation.fusion_store import load_fusions

        for model in (item for item in models if not item.searches):
            stored = [(item, item.seen) for item in load_fusions(model.path)]
            found[f"fusion of {model.path}"] = hashlib.sha256(repr(stored).encode()).hexdigest()
    return found


def _banner(options: EvaluateOptions, models: Sequence[Loaded], task: Task) -> None:
    from finerank.data.console import banner

    passages = task.judged.passages if task.judged is not None else task.rows.pairs() if task.rows else []
    facts: dict[str, object] = {
        "data": ", ".join(options.data),
        "queries": len(task.queries),
        "passages": len(passages),
    }
    for model in models:
        about = ", ".join(f"{key} {value}" for key, value in model.describe().items())
        facts[model.name] = f"{model.kind or 'lexical'}: {about}"
    banner("evaluate", facts)


def _stored(path: str) -> Outcome:
    import orjson

    from finerank.data.console import say
    from finerank.evaluation.report_text import text_of
    from finerank.evaluation.row_layout import report_of
    from finerank.evaluation.row_report import beside_text

    say(f"{path} is done already; --overwrite evaluates again")
    data = orjson.loads(Path(path).read_bytes())
    return Outcome(text_of(report_of(data)) + beside_text(data), data)


def _json(data: dict[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
