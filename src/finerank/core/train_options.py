"""The options of ``finerank train embedder`` and ``finerank train reranker``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finerank.core.adapter_options import AdapterOptions
from finerank.core.mix_options import MixOptions
from finerank.core.model_options import ModelOptions
from finerank.core.options import option
from finerank.core.parallel_options import ParallelOptions
from finerank.core.reranker_options import LayerOptions, PairOptions
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.core.seeding import DEFAULT_SEED
from finerank.core.watch_options import WatchOptions

DEFAULT_EVALUATIONS = 0.2
AUTOMATIC = "auto"
LOCAL_RERANKER = "./models/bge-reranker-v2-m3"
HUB_RERANKER = "BAAI/bge-reranker-v2-m3"
DISTILLING = ("kl", "m3_kd", "margin_mse")
"""Values of --loss that learn from teacher scores alone."""
KD_NAMES = {"kl_div": "kl", "m3_kd_loss": "m3_kd"}
"""FlagEmbedding's names of --kd_loss_type."""


@dataclass(kw_only=True)
class TrainOptions(AdapterOptions, MixOptions, WatchOptions, ParallelOptions, ModelOptions):
    """What both families take; every other name of transformers.TrainingArguments works too."""

    # Each family says its own default.
    model_name_or_path: str
    output_dir: str
    learning_rate: float
    per_device_train_batch_size: int
    dtype: str = option("auto", "of matrix products: auto, float32, bfloat16, float16; weights stay float32")
    train_data: list[str] = option(
        help="rows with query, pos and maybe neg: files, folders (each file in it is a data set), data sets of the hub",
        metavar="ROWS",
    )
    sub_data_name: str | None = sub_data_name_option()
    split: str = split_option()
    train_group_size: int = option(
        8, "passages per query in one step: 1 positive and the rest negatives; cost grows in step with it", ge=1
    )
    max_example_num_per_dataset: int | None = option(
        None, "rows taken at random from each data set (each file of a folder is one), no more than this many", ge=1
    )
    loss: str
    knowledge_distillation: bool = option(
        False, "learn from pos_scores and neg_scores too (finerank score writes them); every row must have them"
    )
    kd_loss_type: str
    kd_temperature: float = option(
        1.0, "divides teacher and student scores in kl; higher takes more from what the teacher puts low", gt=0
    )
    kd_weight: float = option(1.0, "factor of the distillation loss; the other one has 1", gt=0)
    teacher_scale: Literal["logit", "probability"] = option(
        "logit", "what the teacher scores are; probability for those of finerank score --normalize"
    )
    max_tokens_per_forward: int | None = option(
        None,
        "run a step in parts of at most so many tokens and keep the activations of one part only: large batches in "
        "little memory, at the cost of a second forward pass, with the same gradient (gradient caching)",
        ge=8,
    )
    sub_batch_size: int | None = option(
        None, "the same by the number of texts (of pairs, for a reranker) in a part", ge=1
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
    metric_for_best_model: str = option(
        AUTOMATIC,
        "figure that says which weights are best: nDCG@10, MRR, accuracy or loss (the run's own on held-out rows, "
        "lower is better); auto is nDCG@10, with --factor or --patience on rows loss",
    )
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
        2, "checkpoints kept, the best one counted in; more disk, more to fall back on", ge=1, semantic=False
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

    @property
    def teaching(self) -> str:
        """Return which distillation the options name: kl, m3_kd, margin_mse or ranknet."""
        return self.loss if self.loss in DISTILLING else KD_NAMES.get(self.kd_loss_type, self.kd_loss_type)

    @property
    def learns_from_teacher(self) -> bool:
        """Say whether rows must have teacher scores."""
        return self.knowledge_distillation or self.loss in DISTILLING

    @property
    def distils_alone(self) -> bool:
        """Say whether the labels are no loss of their own: m3_kd holds the positive, by its teacher score."""
        return self.loss in DISTILLING or (self.knowledge_distillation and self.teaching == "m3_kd")


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
        None, "divides similarities in the loss; without it, 0.02 for cosines and 1 for inner products", gt=0
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
    loss: Literal["infonce", "kl", "m3_kd", "margin_mse"] = option(
        "infonce",
        "infonce: the positive against all other passages of the batch. From teacher scores alone: kl, m3_kd (with the "
        "batch's other passages) or margin_mse",
    )
    kd_loss_type: Literal["kl", "kl_div", "m3_kd", "m3_kd_loss", "margin_mse", "ranknet"] = option(
        "kl", "what --knowledge_distillation adds; m3_kd takes the place of infonce instead; ranknet learns the order"
    )
    use_inbatch_neg: bool = option(True, "passages of the other queries in a batch are negatives too")
    negatives_cross_device: bool = option(False, "so are passages on other devices; no effect on a single one")
    false_negative_margin: float | None = option(
        None,
        "leave passages of other queries out that are more similar to the query than its positive by more than this "
        "(cosine; 0.1 is usual): they may be positives that nobody labelled",
        ge=0,
    )
    use_mrl: bool = option(False, "train the first --mrl_dims numbers of a vector as vectors of their own (Matryoshka)")
    mrl_dims: list[int] = option([], "lengths to train with --use_mrl, the whole one included: 64 128 256", metavar="N")


@dataclass(kw_only=True)
class RerankerOptions(LayerOptions, PairOptions, TrainOptions):
    """Options of ``finerank train reranker``."""

    model_name_or_path: str = option(
        LOCAL_RERANKER,
        "reranker to tune, an encoder that gets a new head, or a language model that learns to answer Yes: a local "
        "folder or a hub name; where the default folder is not there, BAAI/bge-reranker-v2-m3",
        metavar="M",
    )
    output_dir: str = option("./rerank_output", "folder of the tuned model", metavar="DIR", semantic=False)
    learning_rate: float = option(6e-5, "highest learning rate; 5e-6 for large models, 1e-4 for a small one", gt=0)
    per_device_train_batch_size: int = option(8, "groups per batch and device", ge=1)
    max_len: int | None = option(
        None, "tokens of a query-passage pair, the longer side cut first; without it, 512 or the model's own", ge=5
    )
    query_max_len: int | None = option(None, "tokens that a query is cut to first", ge=1)
    passage_max_len: int | None = option(None, "tokens that a passage is cut to first", ge=1)
    loss: Literal["ce", "bce", "lambda", "ranknet", "kl", "margin_mse"] = option(
        "ce",
        "over a group: ce, softmax with the positive first; bce, each pair alone; lambda, pairs weighted by nDCG; "
        "ranknet, pairs. From teacher scores alone: kl or margin_mse",
    )
    kd_loss_type: Literal["kl", "kl_div", "margin_mse", "ranknet"] = option(
        "kl", "what --knowledge_distillation adds: kl, margin_mse or ranknet (the teacher's order)"
    )
    first_stage: str | None = option(
        None, "embedder whose best passages are reranked in a judged --eval_data; without it BM25", metavar="M"
    )
    rerank_depth: int = option(50, "passages per query reranked there", ge=2)
