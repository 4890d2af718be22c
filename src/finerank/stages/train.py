"""``finerank train embedder`` and ``finerank train reranker``: rows in, a tuned model folder out.

Rows become groups of one positive and G − 1 negatives; an embedder learns by InfoNCE over the batch, a reranker by
cross-entropy over each group. The model is measured on ``--eval_data`` before the first step and on the way; the best
weights are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.model_options import ModelOptions
from finerank.core.options import declared, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED, stream

if TYPE_CHECKING:
    from finerank.core.records import Row
    from finerank.data.outputs import Folder

DEFAULT_EVALUATIONS = 0.2
AUTOMATIC = "auto"


@dataclass(kw_only=True)
class TrainOptions(ModelOptions):
    """What both families take; every other name of transformers.TrainingArguments works too."""

    # Each family says its own default.
    model_name_or_path: str
    output_dir: str
    learning_rate: float
    per_device_train_batch_size: int
    dtype: str = option("auto", "of matrix products: auto, float32, bfloat16, float16; weights stay float32")
    train_data: list[str] = option(help="rows with query, pos and maybe neg: files or folders", metavar="ROWS")
    sub_data_name: str | None = option(None, "subset: reads <train_data>/<sub_data_name>/<split>.jsonl", metavar="NAME")
    split: str = option("train", "split of the subset")
    train_group_size: int = option(
        8, "passages per query in one step: 1 positive and the rest negatives; cost grows in step with it", ge=1
    )
    max_example_num_per_dataset: int | None = option(
        None, "rows taken at random from each --train_data, no more than this many", ge=1
    )
    dropout: float | None = option(
        None,
        "hidden dropout in training; without it, the model's own. Attention dropout is off: it slows a step down most",
        ge=0,
        le=0.9,
    )
    eval_data: list[str] = option(
        [],
        "what the best weights are chosen by: rows, or one judged folder (corpus.jsonl, queries.jsonl, qrels/)",
        metavar="DATA",
    )
    eval_split: str = option("dev", "split of a judged --eval_data")
    eval_steps: float = option(
        DEFAULT_EVALUATIONS, "steps between evaluations; below 1 a share of all steps", gt=0, metavar="STEPS|SHARE"
    )
    metric_for_best_model: str = option("nDCG@10", "figure that says which weights are best: nDCG@10, MRR or accuracy")
    early_stopping_patience: int | None = option(
        None, "stop after this many evaluations that do not beat the best one", ge=1
    )
    load_best_model_at_end: bool = option(True, "keep the best weights; False keeps the last ones")
    num_train_epochs: float = option(1.0, "passes over the rows; each shows other negatives", gt=0)
    max_steps: int = option(-1, "optimizer steps; overrides --num_train_epochs where positive")
    gradient_accumulation_steps: int = option(
        1, "batches added up to one step; in-batch negatives stay inside a batch", ge=1
    )
    weight_decay: float = option(0.01, "AdamW's decay of weights (biases and norms left out)", ge=0)
    warmup_ratio: float = option(0.1, "share of the steps in which the learning rate climbs", ge=0, le=1)
    lr_scheduler_type: str = option("linear", "course of the learning rate after that: linear, cosine, constant, …")
    dataloader_drop_last: bool = option(False, "leave out the last batch of an epoch where it is short")
    logging_steps: float = option(10, "steps between two lines of metrics.jsonl", gt=0, semantic=False)
    save_steps: float | None = option(
        None,
        "steps between checkpoints; without it a tenth of the run, at most 500. A new best is always saved",
        gt=0,
        semantic=False,
    )
    save_total_limit: int | None = option(
        2, "checkpoints kept beside the best one; more disk, more to fall back on", ge=1, semantic=False
    )
    resume_from_checkpoint: str | None = option(
        None,
        "go on from this checkpoint; bare, and by itself after a crash, from the newest whole one in --output_dir",
        bare=AUTOMATIC,
        metavar="PATH",
        semantic=False,
    )
    seed: int = option(DEFAULT_SEED, "of the order of rows, the choice of negatives, dropout and a new head", ge=0)
    overwrite: bool = option(False, "replace a model made with other options or data", semantic=False)


@dataclass(kw_only=True)
class EmbedderOptions(TrainOptions):
    """Options of ``finerank train embedder``."""

    model_name_or_path: str = option(help="encoder to tune: a local folder or a hub name", metavar="M")
    output_dir: str = option("./embedder_output", "folder of the tuned model", metavar="DIR", semantic=False)
    learning_rate: float = option(2e-5, "highest learning rate; 1e-5 for large models, up to 5e-5 for small ones", gt=0)
    per_device_train_batch_size: int = option(
        32, "queries per batch and device; more queries are more in-batch negatives", ge=1
    )
    max_len: int | None = option(None, "tokens of a query and of a passage, where these are not set one by one", ge=3)
    query_max_len: int | None = option(None, "tokens of a query; without it, the model's own limit", ge=3)
    passage_max_len: int | None = option(None, "tokens of a passage; without it, the model's own limit", ge=3)
    temperature: float | None = option(
        None, "divides similarities in the loss; without it, 0.02 for unit vectors and 1 for others", gt=0
    )
    normalize_embeddings: bool | None = option(
        None, "give vectors unit length; without it, the model's own configuration decides"
    )
    sentence_pooling_method: str | None = option(
        None, "cls, mean or last_token; without it, the model's own configuration decides", metavar="NAME"
    )
    query_instruction_for_retrieval: str | None = option(
        None, "instruction put before each query, in training and later; without it, the model's own prompt"
    )
    query_instruction_format: str = option("{}{}", "how the instruction (first {}) and query (second {}) are joined")
    passage_instruction_for_retrieval: str | None = option(
        None, "instruction put before each passage; without it, the model's own prompt"
    )
    passage_instruction_format: str = option("{}{}", "how that instruction and the passage are joined")
    use_inbatch_neg: bool = option(True, "passages of the other queries in a batch are negatives too")
    negatives_cross_device: bool = option(False, "so are passages on other devices; no effect on a single one")


@dataclass(kw_only=True)
class RerankerOptions(TrainOptions):
    """Options of ``finerank train reranker``."""

    model_name_or_path: str = option(
        help="cross-encoder to tune, or an encoder that gets a new head: a local folder or a hub name", metavar="M"
    )
    output_dir: str = option("./rerank_output", "folder of the tuned model", metavar="DIR", semantic=False)
    learning_rate: float = option(6e-5, "highest learning rate; 5e-6 for large models, 1e-4 for a small one", gt=0)
    per_device_train_batch_size: int = option(8, "groups per batch and device", ge=1)
    max_len: int | None = option(
        None, "tokens of a query-passage pair, the longer side cut first; without it, 512 or the model's own", ge=5
    )
    query_max_len: int | None = option(None, "tokens that a query is cut to first", ge=1)
    passage_max_len: int | None = option(None, "tokens that a passage is cut to first", ge=1)
    first_stage: str | None = option(
        None, "embedder whose best passages are reranked in a judged --eval_data; without it BM25", metavar="M"
    )
    rerank_depth: int = option(50, "passages per query reranked there", ge=2)


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
    model = _load(options)
    settings = semantic(options) | {name: str(value) for name, value in typed.items()}
    with Folder.open(
        options.output_dir, command=_verb(options), options=settings, inputs=[*options.train_data, *options.eval_data],
        models={"base": _fingerprint(model)}, overwrite=options.overwrite,
    ) as folder:  # fmt: skip
        if folder.done:
            console.say(f"{options.output_dir}: already trained with these options and data, nothing to do")
            return _outcome(options, folder.manifest["counts"])
        return _train(options, typed, rows, model, folder)


def _verb(options: TrainOptions) -> str:
    return "train reranker" if isinstance(options, RerankerOptions) else "train embedder"


def _check(options: TrainOptions, typed: dict[str, Any]) -> None:
    """Settle what two options say about each other."""
    if typed.pop("use_cpu", False):
        options.device = "cpu"
    options.metric_for_best_model = _figure(options.metric_for_best_model)
    if options.train_group_size < 2 and isinstance(options, RerankerOptions):
        raise UsageError(f"--train_group_size must be at least 2 for a reranker, got {options.train_group_size}")
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if isinstance(options, EmbedderOptions) and options.negatives_cross_device and distributed:
        raise UsageError("--negatives_cross_device works on one device only so far", hint="leave it out")


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


def _fingerprint(model: Any) -> str:
    """Digest what is tuned; for an embedder both sides."""
    if hasattr(model, "encode"):
        return f"{model.fingerprint('query')} {model.fingerprint('passage')}"
    return str(model.fingerprint())


def _train(options: TrainOptions, typed: Mapping[str, Any], rows: Sequence[Row], model: Any, folder: Folder) -> Outcome:
    from finerank.training.job import Job

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
        measure=_measure(options, model),
        patience=options.early_stopping_patience,
        keep_best=options.load_best_model_at_end,
        save_steps=options.save_steps,
        resume_from=None if options.resume_from_checkpoint in (None, AUTOMATIC, "True", "true", "1")
        else options.resume_from_checkpoint,
    )  # fmt: skip
    counts = job.counts(job.run())
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
    temperature = options.temperature or (0.02 if model.gives_unit_vectors else 1.0)
    return embedder_loss(temperature=temperature, in_batch=options.use_inbatch_neg)


def _measure(options: TrainOptions, model: Any) -> Any:
    """Return what measures the model during training, or None without --eval_data."""
    if not options.eval_data:
        return None
    from finerank.data.sources import is_judged, read_judged, read_rows
    from finerank.evaluation.held_out import rerank_measure, rows_measure, search_measure
    from finerank.models.load import load_encoder

    reranker = isinstance(options, RerankerOptions)
    judged = [path for path in options.eval_data if is_judged(path)]
    if not judged:
        return rows_measure(read_rows(options.eval_data), **{"scorer" if reranker else "encoder": model})
    if len(options.eval_data) > 1:
        raise UsageError("--eval_data takes row files, or one judged folder", hint=f"--eval_data {judged[0]}")
    held_out = read_judged(judged[0], options.eval_split)
    if not isinstance(options, RerankerOptions):
        return search_measure(model, held_out, cosine=model.gives_unit_vectors)
    bm25 = options.first_stage in (None, "bm25")
    first = None if bm25 else load_encoder(str(options.first_stage), device=options.device, dtype=options.dtype)
    return rerank_measure(model, held_out, first, options.rerank_depth)


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
        base, best = counts["base"], counts["best"]
        lines = [[name, base.get(name, ""), value, value - base.get(name, value)] for name, value in best.items()]
        text += f"; weights of step {counts['best_step']:,}\n" + table(["", "base", "tuned", "change"], lines)
    return Outcome(text, {"output_dir": options.output_dir, **counts})
