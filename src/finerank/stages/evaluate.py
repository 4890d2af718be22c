"""``finerank evaluate``: which model is better on these queries, by how much, and can it be believed?

Reads a judged set, qrels or rows, gives every model and every TREC run its arm (an embedder searches, a reranker
re-orders a first stage's candidates, a fusion of both is an arm of its own) and writes one result: text, JSON, HTML,
TREC runs.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.evaluate_options import EvaluateOptions
from finerank.core.fusion_weight import parse_weight
from finerank.core.options import semantic
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.evaluation.arms import ArmOptions, Loaded
    from finerank.evaluation.claims import Claims
    from finerank.evaluation.judging import Judgement
    from finerank.evaluation.plan import Planned
    from finerank.evaluation.task import Task

__all__ = ["EvaluateOptions", "arm_options", "run"]


def run(options: EvaluateOptions) -> Outcome:
    """Compare the models and write what was asked for; whatever can be wrong is found before a model is loaded."""
    from finerank.evaluation.arms import load_models
    from finerank.evaluation.claims import check_places
    from finerank.evaluation.judging import judge
    from finerank.evaluation.metrics import canonical
    from finerank.evaluation.task import read_task
    from finerank.evaluation.trec_runs import check_runs, load_runs

    places = {flag: getattr(options, flag) for flag in ("output_file", "report", "run_dir")}
    check_places(places, [*options.data, *options.also, *options.dev_data])
    for metric in options.metrics:
        canonical(metric)
    task = read_task(options)
    plan = _plan(options, task)
    runs = load_runs(plan)
    if task.judged is not None:
        check_runs(runs, plan, task.judged, task.dev, options.top_k)
    how = arm_options(options)
    models = load_models(plan, how, runs)
    with ExitStack() as stack:
        claims = _claim(options, models, stack)
        if claims.done and options.output_file is not None:
            return _stored(options.output_file)
        _banner(options, models, task)
        return _write(options, claims, judge(options, models, task, how))


def _plan(options: EvaluateOptions, task: Task) -> list[Planned]:
    from finerank.evaluation.plan import check_plan, plan_models
    from finerank.evaluation.trec_runs import check_data

    plan = plan_models(
        options.model_name_or_path, options.first_stage, options.baseline, options.cache_dir, options.runs
    )
    check_data(plan, rows=task.rows is not None, texts=task.texts)
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
    from finerank.evaluation.claims import Claims, claim
    from finerank.evaluation.task import task_inputs

    first = options.output_file or options.report or options.run_dir
    if first is None:
        return Claims()
    parts = parts_of("evaluate", semantic(options), task_inputs(options), _fingerprints(options, models), first)
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
    from finerank.batching.row_prompts import embedder_prompts
    from finerank.evaluation.arms import ArmOptions
    from finerank.evaluation.judging import METRICS
    from finerank.models.reranker_arguments import row_prompts, scorer_arguments
    from finerank.retrieval.vectors import cache_folder

    instruction = options.query_instruction_for_retrieval
    prompt = None if instruction is None else format_prompt(instruction, options.query_instruction_format_for_retrieval)
    loading = {name: getattr(options, name) for name in ("device", "dtype", "cache_dir", "trust_remote_code")}
    lengths = {name: getattr(options, name) for name in ("query_max_len", "passage_max_len")}
    pairs = loading | lengths | {"max_len": options.max_len, "peft_path": options.reranker_peft_path}
    return ArmOptions(
        top_k=options.top_k, fusion=options.fusion, weight=parse_weight(options.fusion_weight),
        metric=(options.metrics or METRICS)[0], calibrates=options.calibration,
        cache=cache_folder(options.embedding_cache), encoder=loading | lengths | {"query_prompt": prompt},
        scorer=lambda name: pairs | scorer_arguments(options, name, options.cache_dir),
        prompts=lambda name, embeds: partial(
            embedder_prompts, template=options.query_instruction_format_for_retrieval
        ) if embeds else row_prompts(options, name, options.cache_dir),
    )  # fmt: skip


def _write(options: EvaluateOptions, claims: Claims, found: Judgement) -> Outcome:
    """Write what is not done yet; the result lands last, so that a done result has its page and runs."""
    from finerank.data.console import say
    from finerank.evaluation import report_html
    from finerank.evaluation.result_text import result_text
    from finerank.evaluation.row_layout import shaped

    counts = {"queries": found.report.query_count, "arms": len(found.report.arms)}
    data = found.data if found.flat is None else shaped(found.data, found.flat)
    outcome = Outcome(result_text(found.data), data)
    if claims.runs is not None and not claims.runs.done:
        claims.runs.write(found.arms.qrels, found.arms.runs)
        say(f"TREC runs: {options.run_dir}")
    if claims.page is not None and not claims.page.done:
        claims.page.write_whole(report_html.render(found.report, data=found.data).encode(), counts)
        say(f"report: {options.report}")
    if claims.result is not None and not claims.result.done:
        more = {"seconds_per_arm": found.arms.seconds, "times": found.data.get("times", {})}
        kept = data if options.record_times else {key: value for key, value in data.items() if key != "times"}
        claims.result.write_whole(_json(kept), counts, more | {"report": options.report, "run_dir": options.run_dir})
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

    facts: dict[str, object] = {"data": ", ".join(options.data), "queries": len(task.queries)}
    facts |= {"passages": task.passages} if task.texts else {}
    for model in models:
        about = ", ".join(f"{key} {value}" for key, value in model.describe().items())
        facts[model.name] = f"{model.kind or 'lexical'}: {about}"
    banner("evaluate", facts)


def _stored(path: str) -> Outcome:
    """Return a result that is done; its times stand in its manifest."""
    import orjson

    from finerank.data.console import say
    from finerank.data.manifest import manifest_path, read_manifest
    from finerank.evaluation.result_text import result_text
    from finerank.evaluation.row_layout import report_of

    say(f"{path} is done already; --overwrite evaluates again")
    data = orjson.loads(Path(path).read_bytes())
    times = (read_manifest(manifest_path(Path(path))) or {}).get("times")
    data |= {"times": times} if times else {}
    return Outcome(result_text(report_of(data)), data)


def _json(data: dict[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
