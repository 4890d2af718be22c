"""``finerank train embedder`` and ``finerank train reranker``: rows in, a tuned model folder out.

Rows become groups of one positive and G − 1 negatives; an embedder learns by InfoNCE over the batch, a reranker by
cross-entropy over each group. The model is measured on ``--eval_data`` before the first step and on the way; the best
weights are kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError
from finerank.core.options import declared, semantic
from finerank.core.outcomes import Outcome
from finerank.core.train_options import (
    AUTOMATIC,
    HUB_RERANKER,
    LOCAL_RERANKER,
    EmbedderOptions,
    RerankerOptions,
    TrainOptions,
)
from finerank.core.watch_options import HIDDEN, LOSS, NORM, PLATEAU

if TYPE_CHECKING:
    from finerank.core.records import Row
    from finerank.data.outputs import Folder
    from finerank.evaluation.fusion_store import Fusion
    from finerank.evaluation.held_out import Measure
    from finerank.training.fit import Fit
    from finerank.training.job import Job


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
    from finerank.evaluation.watched import held_out_rows, needs_first_stage
    from finerank.models.trainables import first_stage_of, trainable_of
    from finerank.training import clipping, distributed, parallel, zero
    from finerank.training.arguments import join_processes, parse_extras

    typed, notes = parse_extras(extras or {}, list(declared(type(options))))
    for note in notes:
        console.say(f"note: {note}")
    _check(options, typed)
    on_cpu = options.device == "cpu" or not _has_accelerator()
    parallel.settle(options, typed, on_cpu=on_cpu)
    clipping.settle(options, typed)
    join_processes(typed, use_cpu=on_cpu)
    rows, held_out = held_out_rows(options, training_rows(options))
    models = {"base": trainable_of(options)}
    # Only the first process measures.
    if isinstance(options, RerankerOptions) and needs_first_stage(options) and distributed.rank() == 0:
        models["first_stage"] = first_stage_of(options)
    settings = _settings(options, typed)

    def claim() -> Folder:
        folder = Folder.open(
            options.output_dir, command=_verb(options), options=settings, inputs=training_inputs(options),
            models={name: _fingerprint(model) for name, model in models.items()}, overwrite=options.overwrite,
        )  # fmt: skip
        if folder.done and _goes_on(options, folder.manifest["counts"]):
            console.say(f"{options.output_dir}: finished after fewer epochs, going on from there")
            folder.reopen()
        return folder

    with distributed.claimed(claim) as folder:
        if folder.done:
            console.say(f"{options.output_dir}: already trained with these options and data, nothing to do")
            outcome = _outcome(options, folder.manifest["counts"])
        else:
            outcome = _train(options, typed, (rows, held_out), models, folder)
    distributed.leave()
    zero.forget()
    return outcome


def _verb(options: TrainOptions) -> str:
    return "train reranker" if isinstance(options, RerankerOptions) else "train embedder"


def _check(options: TrainOptions, typed: dict[str, Any]) -> None:
    """Settle what two options say about each other."""
    from finerank.data.console import say, warn
    from finerank.evaluation.watched import settle_watch
    from finerank.training.reports import check_reports

    if typed.pop("use_cpu", False):
        options.device = "cpu"
    if options.device == "cuda" and not _has_accelerator("cuda"):
        warn("--device cuda: there is no CUDA device on this machine; training runs on the CPU, which is far slower")
        options.device = "cpu"
    check_reports(typed.get("report_to"))
    settle_watch(options)
    if options.train_group_size < 2 and isinstance(options, RerankerOptions):
        raise UsageError(f"--train_group_size must be at least 2 for a reranker, got {options.train_group_size}")
    if isinstance(options, EmbedderOptions):
        _check_embedder(options)
    elif options.model_name_or_path == LOCAL_RERANKER and not os.path.isdir(LOCAL_RERANKER):
        options.model_name_or_path = HUB_RERANKER
        say(f"note: no --model_name_or_path, and no {LOCAL_RERANKER} here: {HUB_RERANKER} is tuned")


def _check_embedder(options: EmbedderOptions) -> None:
    from finerank.data.console import launched, say

    if options.negatives_cross_device and not launched():
        say("note: --negatives_cross_device has no effect on a single device")
    if options.use_mrl != bool(options.mrl_dims):
        raise UsageError("--use_mrl and --mrl_dims go together", hint="--use_mrl --mrl_dims 64 128 256 384")


def _settings(options: TrainOptions, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two runs different runs; more epochs of a learning rate without an end are the same run."""
    from finerank.training import distributed

    endless = {"num_train_epochs"} if options.lr_scheduler_type == PLATEAU else set()
    settings = semantic(options) | {name: str(value) for name, value in typed.items() if name != "report_to"}
    # A step's rows are those of all processes.
    together = {"processes": distributed.world_size()} if distributed.world_size() > 1 else {}
    return {name: value for name, value in settings.items() if name not in endless} | together


def _goes_on(options: TrainOptions, counts: Mapping[str, Any]) -> bool:
    """Say whether a finished run asks for more epochs than it was made with, and did not end for want of progress."""
    return bool(
        options.lr_scheduler_type == PLATEAU
        and options.num_train_epochs > counts.get("epochs", math.inf)
        and not counts.get("exhausted", False)
    )


def _has_accelerator(kind: str | None = None) -> bool:
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return any(there.values()) if kind is None else there[kind]


def _fingerprint(model: Any) -> str:
    """Digest what is tuned; for an embedder both sides."""
    if hasattr(model, "encode"):
        return f"{model.fingerprint('query')} {model.fingerprint('passage')}"
    return str(model.fingerprint())


def _train(
    options: TrainOptions,
    typed: Mapping[str, Any],
    rows: tuple[Sequence[Row], Sequence[Row]],
    models: dict[str, Any],
    folder: Folder,
) -> Outcome:
    from finerank.batching.training_groups import groups_of
    from finerank.models.trainables import prompt_last
    from finerank.training import distributed
    from finerank.training.job import Job
    from finerank.training.objectives import objective_of
    from finerank.training.plateau import plateau_of
    from finerank.training.tripwires import Tripwires

    model, measures = models["base"], list[Any]()

    def measure() -> Measure | None:
        # The first stage searches once; then its memory is for the training.
        ranking, whole = _measure(options, model, models.pop("first_stage", None), rows[1])
        measures.append(ranking)
        return whole

    job = Job(
        title=_verb(options),
        model=model,
        groups=groups_of(options, rows[0], prompt_last=prompt_last(options)),
        folder=folder.path,
        loss=objective_of(options, cosine=getattr(model, "cosine", False)),
        values=_values(options),
        typed=typed,
        dtype=options.dtype,
        measure=distributed.held_by_first(measure),
        patience=options.early_stopping_patience,
        plateau=plateau_of(options),
        tripwires=Tripwires(options.strict),
        keep_best=options.load_best_model_at_end,
        cached=options.max_tokens_per_forward is not None or options.sub_batch_size is not None,
        clip=options.clip or NORM,
        save_steps=options.save_steps,
        resume_from=None if options.resume_from_checkpoint in (None, AUTOMATIC, "True", "true", "1")
        else options.resume_from_checkpoint,
    )  # fmt: skip
    result = job.run()
    counts, fusions = distributed.from_first(lambda: _settled(options, job, result, measures))
    if distributed.rank() > 0:
        return Outcome("", {})
    _write_model(options, model, folder, counts, fusions, result)
    folder.finish(counts)
    return _outcome(options, counts)


def _measure(
    options: TrainOptions, model: Any, first_stage: Any, held_out: Sequence[Row]
) -> tuple[Measure | None, Measure | None]:
    """Return what gives ranking figures; and that with scores and, where it decides, the loss on held-out rows."""
    from finerank.batching.training_groups import groups_of, prompts_of
    from finerank.evaluation.held_out import Scores
    from finerank.evaluation.watched import measure_of
    from finerank.models.trainables import prompt_last
    from finerank.training.held_out_loss import held_out_loss
    from finerank.training.objectives import objective_of

    scores = Scores()
    prompts = prompts_of(options, prompt_last=prompt_last(options))
    ranking = measure_of(options, model, first_stage, held_out, scores, prompts)
    if ranking is None:
        return None, None
    if options.metric_for_best_model != LOSS:
        return ranking, lambda: {**ranking(), **scores.values()}
    objective = objective_of(options, cosine=getattr(model, "cosine", False))
    batch = options.per_device_train_batch_size
    groups = groups_of(options, held_out, prompt_last=prompt_last(options))
    losses = held_out_loss(model, groups, objective, batch, options.seed)
    return ranking, lambda: {**ranking(), LOSS: losses(), **scores.values()}


def _settled(
    options: TrainOptions, job: Job, result: Fit, measures: Sequence[Any]
) -> tuple[dict[str, Any], tuple[Fusion, ...]]:
    """Return what is said of a run, and the weights for fusing a reranker with its first stage.

    Raises:
        UserError: with --strict, for a reranker that does not beat its first stage.
    """
    from finerank.evaluation.held_out import RerankMeasure
    from finerank.evaluation.significance import paired_interval
    from finerank.evaluation.watched import means
    from finerank.training.tripwires import BESIDE_FIRST_STAGE, beaten_by_first_stage

    counts = job.counts(result) | {"changes": _changes(result, options.seed), "epochs": options.num_train_epochs}
    counts["exhausted"] = job.plateau is not None and job.plateau.exhausted(result.history)
    reranking = next((each for each in measures if isinstance(each, RerankMeasure)), None)
    if reranking is None or not result.best_values:
        return counts, ()
    beside = reranking.beside(result.best_values)
    first, fused = means(beside.first), means(beside.fused)
    changes = {name: paired_interval(result.best_values[name], beside.first[name], options.seed) for name in first}
    job.tripwires.trip(beaten_by_first_stage(beside.name, first, result.best, fused), BESIDE_FIRST_STAGE)
    return counts | {
        "tripwires": list(job.tripwires.tripped),
        "first_stage": {
            "name": beside.name,
            "figures": first,
            "changes": {name: change._asdict() for name, change in changes.items()},
        },
        "fused": {"weight": beside.fusions[0].weight, "figures": fused},
    }, beside.fusions


def _values(options: TrainOptions) -> dict[str, Any]:
    """Return our options under the names of transformers.TrainingArguments."""
    from finerank.training.plateau import plateau_of

    same = (
        "seed", "learning_rate", "per_device_train_batch_size", "num_train_epochs", "max_steps",
        "gradient_accumulation_steps", "weight_decay", "lr_scheduler_type", "dataloader_drop_last", "logging_steps",
        "save_total_limit", "eval_steps", "metric_for_best_model",
    )  # fmt: skip
    # Below 1, transformers reads warmup_steps as a share of all steps.
    values = {name: getattr(options, name) for name in same} | {"warmup_steps": min(options.warmup_ratio, 0.999999)}
    plateau = plateau_of(options)
    return values | ({"lr_scheduler_kwargs": plateau.scheduler_arguments()} if plateau else {})


def _changes(result: Fit, seed: int) -> dict[str, dict[str, float]]:
    """Return by how much each figure changed against the base, with its 95 % interval over the held-out queries."""
    from finerank.evaluation.significance import paired_interval

    base, best = result.base_values, result.best_values
    figures = [name for name in best if name in base and not name.startswith(HIDDEN)]
    return {name: paired_interval(best[name], base[name], seed)._asdict() for name in figures}


def _write_model(
    options: TrainOptions,
    model: Any,
    folder: Folder,
    counts: Mapping[str, Any],
    fusions: Sequence[Fusion],
    result: Fit,
) -> None:
    from finerank.data.outputs import write_atomic
    from finerank.evaluation.fusion_store import save_fusion
    from finerank.evaluation.held_out import shapes
    from finerank.training.card import kind_of, model_card
    from finerank.training.page import training_page

    model.save(folder.path)
    for fusion in fusions:
        save_fusion(folder.path, fusion)
    values = {"base": result.base_values, "best": result.best_values}
    page = training_page(
        f"{_verb(options)}: {options.model_name_or_path}", result.history, counts, semantic(options), values,
        shapes(**values),
    )  # fmt: skip
    write_atomic(folder.path / "training.html", page.encode("utf-8", "replace"))
    card = model_card(
        options.output_dir, options.model_name_or_path, semantic(options), folder.parts.to_mapping()["inputs"], counts,
        kind=kind_of(model),
    )  # fmt: skip
    write_atomic(folder.path / "README.md", card.encode())


def _outcome(options: TrainOptions, counts: Mapping[str, Any]) -> Outcome:
    from finerank.training.summary import summary

    return Outcome(summary(options.output_dir, counts), {"output_dir": options.output_dir, **counts})
