"""``finerank train embedder`` and ``finerank train reranker``: rows in, a tuned model folder out.

Rows become groups of one positive and G − 1 negatives; an embedder learns by InfoNCE over the batch, a reranker by
cross-entropy over each group. The model is measured on ``--eval_data`` before the first step and on the way; the best
weights are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.options import declared, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import stream
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
    from finerank.training.arguments import parse_extras

    typed, notes = parse_extras(extras or {}, list(declared(type(options))))
    for note in notes:
        console.say(f"note: {note}")
    _check(options, typed)
    rows = _read_rows(options)
    models = {"base": _load(options)}
    if _needs_first_stage(options):
        models["first_stage"] = _load_first_stage(options)
    settings = semantic(options) | {name: str(value) for name, value in typed.items()}
    with Folder.open(
        options.output_dir, command=_verb(options), options=settings, inputs=_inputs(options),
        models={name: _fingerprint(model) for name, model in models.items()}, overwrite=options.overwrite,
    ) as folder:  # fmt: skip
        if folder.done:
            console.say(f"{options.output_dir}: already trained with these options and data, nothing to do")
            return _outcome(options, folder.manifest["counts"])
        return _train(options, typed, rows, models, folder)


def _verb(options: TrainOptions) -> str:
    return "train reranker" if isinstance(options, RerankerOptions) else "train embedder"


def _check(options: TrainOptions, typed: dict[str, Any]) -> None:
    """Settle what two options say about each other."""
    from finerank.data.console import say

    if typed.pop("use_cpu", False):
        options.device = "cpu"
    options.metric_for_best_model = _figure(options.metric_for_best_model)
    if options.train_group_size < 2 and isinstance(options, RerankerOptions):
        raise UsageError(f"--train_group_size must be at least 2 for a reranker, got {options.train_group_size}")
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "1"):
        raise UsageError(
            f"{_verb(options)} runs in one process on one device so far, but WORLD_SIZE={processes} says that a "
            "launcher such as torchrun has started several",
            hint=f"finerank {_verb(options)} … without the launcher",
        )
    if isinstance(options, EmbedderOptions) and options.negatives_cross_device:
        say("note: --negatives_cross_device has no effect on a single device")
    _judged_folder(options)


def _figure(name: str) -> str:
    """Return a figure's name as it is logged, however it was typed."""
    from finerank.evaluation.held_out import FIGURES

    spellings = {figure.lower(): figure for figure in FIGURES}
    word = name.removeprefix("eval_").lower()
    if word not in spellings:
        raise UsageError(
            f'unknown --metric_for_best_model "{name}"{did_you_mean(word, spellings)}', hint=", ".join(FIGURES)
        )
    return spellings[word]


def _inputs(options: TrainOptions) -> list[Any]:
    from finerank.data.sources import inputs_of

    read = inputs_of(options.train_data, sub_data_name=options.sub_data_name, split=options.split)
    return [*read, *inputs_of(options.eval_data)]


def _read_rows(options: TrainOptions) -> list[Row]:
    """Read each data set; draw from it no more rows than asked, in file order."""
    from finerank.data.sources import read_rows

    rows: list[Row] = []
    for number, path in enumerate(options.train_data):
        found = read_rows([path], sub_data_name=options.sub_data_name, split=options.split)
        limit = options.max_example_num_per_dataset
        if limit is not None and len(found) > limit:
            chosen = stream(options.seed, "sample", number).sample(range(len(found)), limit)
            found = [found[index] for index in sorted(chosen)]
        rows += found
    return rows


def _load(options: TrainOptions) -> Any:
    from finerank.batching.prompts import format_prompt
    from finerank.models.load import trainable_encoder, trainable_scorer

    shared: dict[str, Any] = {
        "device": options.device, "dropout": options.dropout, "cache_dir": options.cache_dir,
        "trust_remote_code": options.trust_remote_code,
    }  # fmt: skip
    if isinstance(options, RerankerOptions):
        return trainable_scorer(
            options.model_name_or_path, max_len=options.max_len, query_max_len=options.query_max_len,
            passage_max_len=options.passage_max_len, seed=options.seed, **shared,
        )  # fmt: skip
    assert isinstance(options, EmbedderOptions)
    query, passage = options.query_instruction_for_retrieval, options.passage_instruction_for_retrieval
    return trainable_encoder(
        options.model_name_or_path,
        query_prompt=None if query is None else format_prompt(query, options.query_instruction_format),
        passage_prompt=None if passage is None else format_prompt(passage, options.passage_instruction_format),
        query_max_len=options.query_max_len or options.max_len,
        passage_max_len=options.passage_max_len or options.max_len,
        pooling=options.sentence_pooling_method, normalize=options.normalize_embeddings, **shared,
    )  # fmt: skip


def _judged_folder(options: TrainOptions) -> str | None:
    """Return the judged folder of --eval_data, if it is one; rows cannot be mixed with it."""
    from finerank.data.sources import is_judged

    judged = [path for path in options.eval_data if is_judged(path)]
    if judged and len(options.eval_data) > 1:
        raise UsageError("--eval_data takes row files, or one judged folder", hint=f"--eval_data {judged[0]}")
    return judged[0] if judged else None


def _needs_first_stage(options: TrainOptions) -> bool:
    if not isinstance(options, RerankerOptions) or options.first_stage in (None, "bm25"):
        return False
    return _judged_folder(options) is not None


def _load_first_stage(options: TrainOptions) -> Any:
    from finerank.models.load import load_encoder

    assert isinstance(options, RerankerOptions)
    return load_encoder(
        str(options.first_stage), device=options.device, dtype=options.dtype, cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def _fingerprint(model: Any) -> str:
    """Digest what is tuned; for an embedder both sides."""
    if hasattr(model, "encode"):
        return f"{model.fingerprint('query')} {model.fingerprint('passage')}"
    return str(model.fingerprint())


def _train(
    options: TrainOptions, typed: Mapping[str, Any], rows: Sequence[Row], models: dict[str, Any], folder: Folder
) -> Outcome:
    from finerank.training.job import Job

    model = models["base"]
    job = Job(
        title=_verb(options),
        model=model,
        rows=rows,
        folder=folder.path,
        group_size=options.train_group_size,
        loss=_loss(options, model),
        values=_values(options),
        typed=typed,
        dtype=options.dtype,
        # The first stage searches once; then its memory is for the training.
        measure=_measure(options, model, models.pop("first_stage", None)),
        patience=options.early_stopping_patience,
        keep_best=options.load_best_model_at_end,
        save_steps=options.save_steps,
        resume_from=None if options.resume_from_checkpoint in (None, AUTOMATIC, "True", "true", "1")
        else options.resume_from_checkpoint,
    )  # fmt: skip
    result = job.run()
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


def _loss(options: TrainOptions, model: Any) -> Any:
    from finerank.training.losses import embedder_loss, reranker_loss

    if not isinstance(options, EmbedderOptions):
        return reranker_loss
    temperature = options.temperature or (0.02 if model.cosine else 1.0)
    return embedder_loss(temperature=temperature, in_batch=options.use_inbatch_neg, cosine=model.cosine)


def _measure(options: TrainOptions, model: Any, first_stage: Any) -> Any:
    """Return what measures the model during training, or None without --eval_data."""
    if not options.eval_data:
        return None
    from finerank.data.sources import read_judged, read_rows
    from finerank.evaluation.held_out import rerank_measure, rows_measure, search_measure

    reranker = isinstance(options, RerankerOptions)
    judged = _judged_folder(options)
    if judged is None:
        return rows_measure(read_rows(options.eval_data), **{"scorer" if reranker else "encoder": model})
    held_out = read_judged(judged, options.eval_split)
    if not isinstance(options, RerankerOptions):
        return search_measure(model, held_out)
    return rerank_measure(model, held_out, first_stage, options.rerank_depth)


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
