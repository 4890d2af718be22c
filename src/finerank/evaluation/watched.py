"""What a training is measured by, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finerank.batching.row_prompts import Prompts
from finerank.core.errors import DataError, Problem, UsageError, did_you_mean
from finerank.core.protocols import Encoder
from finerank.core.records import Row
from finerank.core.train_options import AUTOMATIC, RerankerOptions, TrainOptions
from finerank.core.watch_options import DEFAULT_FACTOR, DEFAULT_PATIENCE, HELD_OUT, LOSS, PLATEAU
from finerank.data.console import say
from finerank.data.hold_out import split_rows
from finerank.data.sources import is_judged, read_judged, read_rows
from finerank.data.training_rows import TrainingRows
from finerank.evaluation.held_out import DECISIVE, FIGURES, Measure, RerankMeasure, Scores, rows_measure, search_measure
from finerank.evaluation.plan import BM25, short_names


def settle_watch(options: TrainOptions) -> None:
    """Settle what the options that watch a run say about each other.

    Raises:
        UsageError: for an unknown figure, or options that contradict one another.
    """
    judged = judged_folder(options)
    if options.hold_out is not None and options.eval_data:
        raise UsageError("--hold_out and --eval_data both say what to measure on", hint="give one of them")
    if options.factor is not None or options.patience is not None:
        options.lr_scheduler_type = PLATEAU
    plateau = options.lr_scheduler_type == PLATEAU
    if plateau:
        options.factor = options.factor or DEFAULT_FACTOR
        options.patience = DEFAULT_PATIENCE if options.patience is None else options.patience
        options.warmup_ratio = 0.0
        if not options.eval_data and options.hold_out is None:
            options.hold_out = HELD_OUT
            say(f"note: no --eval_data: {HELD_OUT:.0%} of the queries are held out to see when the loss stands still")
    if options.metric_for_best_model == AUTOMATIC:
        options.metric_for_best_model = LOSS if plateau and judged is None else DECISIVE
    options.metric_for_best_model = figure_named(options.metric_for_best_model)
    if options.metric_for_best_model == LOSS and judged is not None:
        raise UsageError(
            "the held-out loss is measured on rows, and --eval_data is a judged folder",
            hint=f"--metric_for_best_model {DECISIVE}, or --eval_data ROWS",
        )


def figure_named(name: str) -> str:
    """Return a figure's name as it is logged, however it was typed.

    Raises:
        UsageError: for a figure that is not measured.
    """
    spellings = {figure.lower(): figure for figure in (*FIGURES, LOSS)}
    word = name.removeprefix("eval_").lower()
    if word not in spellings:
        raise UsageError(
            f'unknown --metric_for_best_model "{name}"{did_you_mean(word, spellings)}',
            hint=", ".join(spellings.values()),
        )
    return spellings[word]


def judged_folder(options: TrainOptions) -> str | None:
    """Return the judged folder of --eval_data, if it is one; rows cannot be mixed with it."""
    judged = [path for path in options.eval_data if is_judged(path)]
    if judged and len(options.eval_data) > 1:
        raise UsageError("--eval_data takes row files, or one judged folder", hint=f"--eval_data {judged[0]}")
    return judged[0] if judged else None


def held_out_rows(options: TrainOptions, rows: TrainingRows) -> tuple[TrainingRows, Sequence[Row]]:
    """Return the rows to train on, and those to measure on: of --eval_data, or held out of the training rows.

    Raises:
        UserError: if no row can be held out.
        DataError: for bad rows of --eval_data.
    """
    if options.hold_out is None:
        if not options.eval_data or judged_folder(options) is not None:
            return rows, []
        found = read_rows(options.eval_data)
        _check_taught(options, found)
        return rows, found
    split = split_rows(rows, options.hold_out, options.seed)
    say(
        f"{split.queries:,} queries ({len(split.held_out):,} of {len(rows):,} rows) are held out to measure on"
        + ("" if split.whole else "; some of their positives are positives of training rows too")
    )
    return rows.take(split.train), rows.take(split.held_out)


def _check_taught(options: TrainOptions, rows: Sequence[Row]) -> None:
    """Refuse held-out rows without the teacher scores that the loss to be measured on them needs."""
    if options.metric_for_best_model != LOSS or not options.learns_from_teacher:
        return
    bare = [row for row in rows if row.pos_scores is None or (row.negatives and row.neg_scores is None)]
    if bare:
        message = "the held-out loss of a distillation needs pos_scores and neg_scores in every row"
        raise DataError(
            [Problem(row.where, "no-teacher-score", message) for row in bare],
            hint=f"finerank score, or --metric_for_best_model {DECISIVE}",
        )


def needs_first_stage(options: TrainOptions) -> bool:
    """Say whether an embedder has to find what the model is measured on."""
    if not isinstance(options, RerankerOptions) or options.first_stage in (None, BM25):
        return False
    return judged_folder(options) is not None


def measure_of(
    options: TrainOptions,
    model: Any,
    first_stage: Encoder | None,
    held_out: Sequence[Row],
    scores: Scores,
    prompts: Prompts,
) -> Measure | None:
    """Return what measures the model during training, or None where there is nothing to measure on.

    Args:
        prompts: what the training puts around the texts of its rows.
    """
    if held_out:
        kind = "scorer" if isinstance(options, RerankerOptions) else "encoder"
        return rows_measure(held_out, **{kind: model}, scores=scores, prompts=prompts)
    judged = judged_folder(options)
    if judged is None:
        return None
    judged_set = read_judged(judged, options.eval_split)
    if not isinstance(options, RerankerOptions):
        return search_measure(model, judged_set, scores)
    name = short_names([options.first_stage])[0] if options.first_stage else BM25
    measure = RerankMeasure(model, judged_set, first_stage, options.rerank_depth, name, scores)
    say(f"first stage {name}: {', '.join(f'{figure} {value:.4f}' for figure, value in means(measure.first).items())}")
    return measure


def means(values: dict[str, list[float]]) -> dict[str, float]:
    """Return each figure's mean over the queries."""
    return {name: sum(each) / len(each) for name, each in values.items()}
