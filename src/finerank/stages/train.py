"""``finerank train embedder`` and ``finerank train reranker``: rows in, a tuned model folder out.

Rows become groups of one positive and G − 1 negatives; an embedder learns by InfoNCE over the batch, a reranker by
cross-entropy over each group. The model is measured on ``--eval_data`` before the first step and on the way; the best
weights are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError
from finerank.core.options import declared, semantic
from finerank.core.outcomes import Outcome
from finerank.core.train_options import AUTOMATIC, EmbedderOptions, RerankerOptions, TrainOptions

if TYPE_CHECKING:
    from finerank.core.records import Row
    from finerank.data.outputs import Folder
    from finerank.training.fit import Fit


def run(options: TrainOptions, extras: Mapping[str, Sequence[str]] | None = None) -> Outcome:
    """Train, and write the model folder.

    Args:
        extras: flags for transformers.TrainingArguments -> the words that followed them.

    Raises:
        UserError: for bad rows, a model that cannot be had, a loss that is not a number.
        UsageError: for an unknown flag.
    """
    from finerank.data import console
    from finerank.data.outputs import Folder
    from finerank.data.training_rows import training_inputs, training_rows
    from finerank.evaluation.watched import needs_first_stage
    from finerank.models.trainables import first_stage_of, trainable_of
    from finerank.training import distributed
    from finerank.training.arguments import join_processes, parse_extras

    typed, notes = parse_extras(extras or {}, list(declared(type(options))))
    for note in notes:
        console.say(f"note: {note}")
    _check(options, typed)
    join_processes(typed, use_cpu=options.device == "cpu" or not _has_accelerator())
    rows = training_rows(options)
    models = {"base": trainable_of(options)}
    if isinstance(options, RerankerOptions) and needs_first_stage(options):
        models["first_stage"] = first_stage_of(options)
    settings = semantic(options) | {name: str(value) for name, value in typed.items()}

    def claim() -> Folder:
        return Folder.open(
            options.output_dir, command=_verb(options), options=settings, inputs=training_inputs(options),
            models={name: _fingerprint(model) for name, model in models.items()}, overwrite=options.overwrite,
        )  # fmt: skip

    with distributed.claimed(claim) as folder:
        if folder.done:
            console.say(f"{options.output_dir}: already trained with these options and data, nothing to do")
            outcome = _outcome(options, folder.manifest["counts"])
        else:
            outcome = _train(options, typed, rows, models, folder)
    distributed.leave()
    return outcome


def _verb(options: TrainOptions) -> str:
    return "train reranker" if isinstance(options, RerankerOptions) else "train embedder"


def _check(options: TrainOptions, typed: dict[str, Any]) -> None:
    """Settle what two options say about each other."""
    from finerank.evaluation.watched import figure_named, judged_folder

    if typed.pop("use_cpu", False):
        options.device = "cpu"
    options.metric_for_best_model = figure_named(options.metric_for_best_model)
    if options.train_group_size < 2 and isinstance(options, RerankerOptions):
        raise UsageError(f"--train_group_size must be at least 2 for a reranker, got {options.train_group_size}")
    if isinstance(options, EmbedderOptions):
        _check_embedder(options)
    judged_folder(options)


def _check_embedder(options: EmbedderOptions) -> None:
    from finerank.data.console import say

    if options.negatives_cross_device and int(os.environ.get("WORLD_SIZE") or 1) == 1:
        say("note: --negatives_cross_device has no effect on a single device")
    if options.use_mrl != bool(options.mrl_dims):
        raise UsageError("--use_mrl and --mrl_dims go together", hint="--use_mrl --mrl_dims 64 128 256 384")


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _fingerprint(model: Any) -> str:
    """Digest what is tuned; for an embedder both sides."""
    if hasattr(model, "encode"):
        return f"{model.fingerprint('query')} {model.fingerprint('passage')}"
    return str(model.fingerprint())


def _train(
    options: TrainOptions, typed: Mapping[str, Any], rows: Sequence[Row], models: dict[str, Any], folder: Folder
) -> Outcome:
    from finerank.evaluation.watched import measure_of
    from finerank.training import distributed
    from finerank.training.job import Job
    from finerank.training.objectives import objective_of

    model = models["base"]
    job = Job(
        title=_verb(options),
        model=model,
        rows=rows,
        folder=folder.path,
        group_size=options.train_group_size,
        loss=objective_of(options, cosine=getattr(model, "cosine", False)),
        values=_values(options),
        typed=typed,
        dtype=options.dtype,
        # The first stage searches once; then its memory is for the training.
        measure=measure_of(options, model, models.pop("first_stage", None)),
        patience=options.early_stopping_patience,
        keep_best=options.load_best_model_at_end,
        cached=options.max_tokens_per_forward is not None or options.sub_batch_size is not None,
        save_steps=options.save_steps,
        resume_from=None if options.resume_from_checkpoint in (None, AUTOMATIC, "True", "true", "1")
        else options.resume_from_checkpoint,
    )  # fmt: skip
    result = job.run()
    if distributed.rank() > 0:
        return Outcome("", {})
    counts = job.counts(result) | {"changes": _changes(result, options.seed)}
    _write_model(options, model, folder, counts)
    folder.finish(counts)
    return _outcome(options, counts)


def _values(options: TrainOptions) -> dict[str, Any]:
    """Return our options under the names of transformers.TrainingArguments."""
    same = (
        "seed", "learning_rate", "per_device_train_batch_size", "num_train_epochs", "max_steps",
        "gradient_accumulation_steps", "weight_decay", "lr_scheduler_type", "dataloader_drop_last", "logging_steps",
        "save_total_limit", "eval_steps", "metric_for_best_model",
    )  # fmt: skip
    # Below 1, transformers reads warmup_steps as a share of all steps.
    return {name: getattr(options, name) for name in same} | {"warmup_steps": min(options.warmup_ratio, 0.999999)}


def _changes(result: Fit, seed: int) -> dict[str, dict[str, float]]:
    """Return by how much each figure changed against the base, with its 95 % interval over the held-out queries."""
    from finerank.evaluation.significance import paired_interval

    base, best = result.base_values, result.best_values
    return {name: paired_interval(best[name], base[name], seed)._asdict() for name in best if name in base}


def _write_model(options: TrainOptions, model: Any, folder: Folder, counts: Mapping[str, Any]) -> None:
    from finerank.data.outputs import write_atomic
    from finerank.training.card import model_card

    model.save(folder.path)
    card = model_card(
        options.output_dir, options.model_name_or_path, semantic(options), folder.parts.to_mapping()["inputs"], counts,
        reranker=isinstance(options, RerankerOptions),
    )  # fmt: skip
    write_atomic(folder.path / "README.md", card.encode())


def _outcome(options: TrainOptions, counts: Mapping[str, Any]) -> Outcome:
    from finerank.data.console import table

    text = f"{options.output_dir}: {counts['steps']:,} steps over {counts['rows']:,} rows"
    if counts["rows_per_second"]:
        text += f" in {counts['train_seconds']:,.0f} s ({counts['rows_per_second']:,.1f} rows/s)"
    if counts["best"]:
        lines = [
            [name, counts["base"].get(name, ""), value, *_change(counts, name)]
            for name, value in counts["best"].items()
        ]
        text += f"; weights of step {counts['best_step']:,}\n" + table(["", "base", "tuned", "change", "95 %"], lines)
    return Outcome(text, {"output_dir": options.output_dir, **counts})


def _change(counts: Mapping[str, Any], name: str) -> list[Any]:
    change = counts.get("changes", {}).get(name)
    return [change["mean"], f"{change['low']:+.4f} to {change['high']:+.4f}"] if change else ["", ""]
