"""``finerank evaluate``: which model is better on these queries, by how much, and can it be believed?

Reads a judged set or rows, gives every model its arm (an embedder searches, a reranker re-orders a first stage's
candidates, a fusion of both is an arm of its own) and writes one report: text, JSON, HTML, TREC runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finerank.core.errors import UsageError
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.evaluation.arms import ArmOptions, Arms, Loaded
    from finerank.evaluation.report import Report

JUDGED_METRICS = ["nDCG@10", "MRR@10", "MAP"]


@dataclass(kw_only=True)
class EvaluateOptions(ModelOptions):
    """Options of ``finerank evaluate``."""

    model_name_or_path: list[str] = option(
        [], "models to compare: embedders and rerankers, local folders or hub names", metavar="M"
    )
    data: list[str] = option(
        help="a judged folder (corpus.jsonl, queries.jsonl, qrels/) or rows: files and folders", metavar="D"
    )
    sub_data_name: str | None = option(None, "read <D>/<sub_data_name>/<split>.jsonl of each folder of rows")
    split: str = option("test", "which qrels of a judged folder, or which split of rows")
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
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UsageError("evaluate needs --data", hint="finerank evaluate --help")
        if self.fusion_weight != "auto" and _number(self.fusion_weight) is None:
            raise UsageError(f'--fusion_weight must be a number of at least 0 or auto, got "{self.fusion_weight}"')
        if not self.model_name_or_path and not self.first_stage:
            raise UsageError("evaluate needs a model", hint="-m MODEL, or --first_stage bm25")


def run(options: EvaluateOptions) -> Outcome:
    """Compare the models and write what was asked for."""
    from finerank.data.outputs import Output
    from finerank.evaluation.arms import load_models

    models = load_models(options.model_name_or_path, options.first_stage, options.baseline, arm_options(options))
    if options.output_file is None:
        return _evaluate(options, models)[0]
    with Output.open(
        options.output_file,
        command="evaluate",
        options=semantic(options),
        inputs=options.data,
        models=_fingerprints(options, models),
        overwrite=options.overwrite,
    ) as output:
        if output.done and not _lacks_files(options):
            return _stored(options.output_file)
        outcome, counts = _evaluate(options, models)
        if not output.done:
            output.write_whole(_json(outcome.data), counts)
    return outcome


def arm_options(options: EvaluateOptions) -> ArmOptions:
    """Return what the arms need to know."""
    from finerank.evaluation.arms import ArmOptions
    from finerank.retrieval.vectors import cache_folder

    loading = {name: getattr(options, name) for name in ("device", "dtype", "cache_dir", "trust_remote_code")}
    lengths = {name: getattr(options, name) for name in ("query_max_len", "passage_max_len")}
    return ArmOptions(
        top_k=options.top_k,
        fusion=options.fusion,
        weight=_number(options.fusion_weight),
        metric=(options.metrics or JUDGED_METRICS)[0],
        cache=cache_folder(options.embedding_cache),
        encoder=loading | lengths | {"query_prompt": options.query_instruction_for_retrieval},
        scorer=loading | lengths | {"max_len": options.max_len},
    )


def _evaluate(options: EvaluateOptions, models: Sequence[Loaded]) -> tuple[Outcome, dict[str, int]]:
    from finerank.data.sources import is_judged

    judged = [path for path in options.data if is_judged(path)]
    if judged and len(options.data) > 1:
        raise UsageError(f"one judged folder at a time, got {len(options.data)} inputs", hint=f"--data {judged[0]}")
    report, arms, extra = _judged(options, models) if judged else _rows(options, models)
    return _write(options, report, arms, extra), {"queries": report.query_count, "arms": len(report.arms)}


def _judged(options: EvaluateOptions, models: Sequence[Loaded]) -> tuple[Report, Arms, dict[str, Any]]:
    from finerank.data.sources import read_judged
    from finerank.evaluation.arms import judged_arms
    from finerank.evaluation.ranking import without
    from finerank.evaluation.report import build_report

    judged = read_judged(options.data[0], options.split)
    if options.limit is not None:
        judged = without(judged, judged.query_ids[options.limit :])
    dev = None
    if options.dev_split is not None and options.fusion != "none" and options.fusion_weight == "auto":
        dev = without(read_judged(options.data[0], options.dev_split), list(judged.qrels))
        if not dev.query_ids:
            raise UsageError(
                f"--dev_split {options.dev_split} holds no query that --split {options.split} does not judge"
            )
    _banner(options, models, len(judged.queries), len(judged.passages))
    arms = judged_arms(models, judged, dev, arm_options(options))
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


def _rows(options: EvaluateOptions, models: Sequence[Loaded]) -> tuple[Report, Arms, dict[str, Any]]:
    from finerank.data.sources import read_rows
    from finerank.evaluation.report import build_report
    from finerank.evaluation.row_arms import row_arms
    from finerank.evaluation.rows import METRICS, lay_out

    if options.dev_split is not None:
        raise UsageError("--dev_split needs a judged folder, got rows", hint="--fusion_weight 1.0")
    rows = read_rows(options.data, sub_data_name=options.sub_data_name, split=options.split, limit=options.limit)
    row_set = lay_out(rows)
    pairs = row_set.pairs()
    _banner(options, models, len(rows), len(pairs))
    arms = row_arms(models, row_set, arm_options(options), seed=options.seed)
    report = build_report(
        arms.runs,
        row_set.qrels,
        row_set.queries,
        row_set.passages,
        metrics=options.metrics or METRICS,
        baseline=arms.resolve(options.baseline),
        comparisons=arms.comparisons,
        title=f"rows of {', '.join(options.data)}",
        notes=arms.notes,
        more_values=arms.values,
        overall=arms.overall,
        facts=arms.facts,
        sample_queries=options.sample_queries,
        seed=options.seed,
    )
    return report, arms, {"data": options.data, "num_pairs": len(pairs)}


def _write(options: EvaluateOptions, report: Report, arms: Arms, extra: dict[str, Any]) -> Outcome:
    from pathlib import Path

    from finerank.data.console import say
    from finerank.data.outputs import write_atomic
    from finerank.evaluation import report_html
    from finerank.evaluation.report import report_data, report_text

    if options.report is not None:
        write_atomic(options.report, report_html.render(report).encode())
        say(f"report: {options.report}")
    if options.run_dir is not None:
        _write_runs(Path(options.run_dir), arms)
        say(f"TREC runs: {options.run_dir}")
    return Outcome(report_text(report), report_data(report) | extra)


def _write_runs(folder: Any, arms: Arms) -> None:
    import re

    from finerank.data.trec import write_qrels, write_run

    write_qrels(folder / "qrels.txt", arms.qrels)
    used: set[str] = set()
    for name, ranking in arms.runs.items():
        stem = re.sub(r"[^\w.=-]+", "_", name).strip("_") or "arm"
        while stem in used:
            stem += "_"
        used.add(stem)
        write_run(folder / f"{stem}.run", ranking, stem)


def _fingerprints(options: EvaluateOptions, models: Sequence[Loaded]) -> dict[str, str]:
    """Name what decides the result beside options and data; a stored weight does, unless it is chosen anew."""
    found = {model.path: model.fingerprint() for model in models}
    if options.fusion != "none" and options.fusion_weight == "auto" and options.dev_split is None:
        from finerank.evaluation.fusion import load_fusion

        found |= {f"fusion of {model.path}": repr(load_fusion(model.path)) for model in models if not model.searches}
    return found


def _banner(options: EvaluateOptions, models: Sequence[Loaded], queries: int, passages: int) -> None:
    from finerank.data.console import banner

    facts: dict[str, object] = {"data": ", ".join(options.data), "queries": queries, "passages": passages}
    for model in models:
        about = ", ".join(f"{key} {value}" for key, value in model.describe().items())
        facts[model.name] = f"{model.kind or 'lexical'}: {about}"
    banner("evaluate", facts)


def _lacks_files(options: EvaluateOptions) -> bool:
    """Say whether a page or runs are asked for that an earlier run with the same result did not write."""
    from pathlib import Path

    return any(path is not None and not Path(path).exists() for path in (options.report, options.run_dir))


def _stored(path: str) -> Outcome:
    from pathlib import Path

    import orjson

    from finerank.data.console import say
    from finerank.evaluation.report import text_of

    say(f"{path} is done already; --overwrite evaluates again")
    data = orjson.loads(Path(path).read_bytes())
    return Outcome(text_of(data), data)


def _json(data: dict[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None
