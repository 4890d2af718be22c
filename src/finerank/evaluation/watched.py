"""What a training is measured by, by its options."""

from __future__ import annotations

from typing import Any

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.protocols import Encoder
from finerank.core.train_options import RerankerOptions, TrainOptions
from finerank.data.sources import is_judged, read_judged, read_rows
from finerank.evaluation.held_out import FIGURES, Measure, rerank_measure, rows_measure, search_measure


def figure_named(name: str) -> str:
    """Return a figure's name as it is logged, however it was typed.

    Raises:
        UsageError: for a figure that is not measured.
    """
    spellings = {figure.lower(): figure for figure in FIGURES}
    word = name.removeprefix("eval_").lower()
    if word not in spellings:
        raise UsageError(
            f'unknown --metric_for_best_model "{name}"{did_you_mean(word, spellings)}', hint=", ".join(FIGURES)
        )
    return spellings[word]


def judged_folder(options: TrainOptions) -> str | None:
    """Return the judged folder of --eval_data, if it is one; rows cannot be mixed with it."""
    judged = [path for path in options.eval_data if is_judged(path)]
    if judged and len(options.eval_data) > 1:
        raise UsageError("--eval_data takes row files, or one judged folder", hint=f"--eval_data {judged[0]}")
    return judged[0] if judged else None


def needs_first_stage(options: TrainOptions) -> bool:
    """Say whether an embedder has to find what the model is measured on."""
    if not isinstance(options, RerankerOptions) or options.first_stage in (None, "bm25"):
        return False
    return judged_folder(options) is not None


def measure_of(options: TrainOptions, model: Any, first_stage: Encoder | None) -> Measure | None:
    """Return what measures the model during training, or None without --eval_data."""
    if not options.eval_data:
        return None
    reranker = isinstance(options, RerankerOptions)
    judged = judged_folder(options)
    if judged is None:
        return rows_measure(read_rows(options.eval_data), **{"scorer" if reranker else "encoder": model})
    held_out = read_judged(judged, options.eval_split)
    if not isinstance(options, RerankerOptions):
        return search_measure(model, held_out)
    return rerank_measure(model, held_out, first_stage, options.rerank_depth)
