"""Flags that are not our own -> transformers.TrainingArguments, typed, with the names that 5.x dropped still taken."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.utils import logging as hf_logging

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.options import FALSE_WORDS
from finerank.data.console import launched, say
from finerank.training.zero import launch_alone

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "torchdynamo": "torch_compile_backend",
    "include_tokens_per_second": "include_num_input_tokens_seen",
}
"""Names of transformers 4 -> their present names."""

NO_EFFECT = {
    "remove_unused_columns": "every key of a row is known here",
    "label_names": "a group carries its own target",
    "do_train": "training is what this verb does",
    "do_eval": "--eval_data says whether to evaluate",
    "do_predict": "finerank evaluate measures a model",
    "prediction_loss_only": "evaluation ranks, it does not predict",
    "group_by_length": "batches are always sorted by length inside a step",
    "length_column_name": "lengths are counted in tokens, not read",
    "data_seed": "--seed is the seed of the data too",
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "figures go to metrics.jsonl in the output folder",
    "disable_tqdm": "the bar is our own",
    "half_precision_backend": "torch's autocast is the only one left",
    "fp16_backend": "torch's autocast is the only one left",
    "fp16_opt_level": "torch's autocast is the only one left",
    "use_legacy_prediction_loop": "transformers 5 has one loop",
    "ddp_find_unused_parameters": "every parameter is used",
    "use_mps_device": "--device mps does this",
    "use_ipex": "transformers 5 has dropped it",
    "jit_mode_eval": "transformers 5 has dropped it",
    "past_index": "transformers 5 has dropped it",
    "eval_on_start": "the base model is always evaluated first",
    "greater_is_better": "every figure measured here is better when greater",
    "use_flash_attn": "attention is the model's own, as fast as the device allows",
    "config_name": "a model's configuration stands in its folder",
    "tokenizer_name": "a model's tokenizer stands in its folder",
    "use_fast_tokenizer": "tokenizers are always the fast ones",
    "use_slow_tokenizer": "tokenizers are always the fast ones",
    "pad_to_multiple_of": "padding is as wide as the device likes it",
    "cache_path": "rows are read where they lie",
    "token": "the hub's token is read from HF_TOKEN, or from what hf auth login has stored",
    "peft_model_path": "FlagEmbedding does not read it either; --from_peft goes on with an adapter",
    "sep_token": "a language model reads a line break between query and passage, as published ones were trained",
    "train_sampling_strategy": "the order of the rows follows --seed",
    "per_device_eval_batch_size": "evaluation cuts its batches by tokens",
    "eval_accumulation_steps": "evaluation keeps scores, not outputs",
    "eval_do_concat_batches": "evaluation ranks, it does not predict",
    "eval_use_gather_object": "evaluation ranks, it does not predict",
    "batch_eval_metrics": "evaluation ranks, it does not predict",
    "include_for_metrics": "evaluation ranks, it does not predict",
    "include_num_input_tokens_seen": "the bar counts rows",
    "include_inputs_for_metrics": "evaluation ranks, it does not predict",
    "fp16_full_eval": "evaluation computes in the format of training",
    "bf16_full_eval": "evaluation computes in the format of training",
    "auto_find_batch_size": "--max_tokens_per_forward bounds a step's memory at any batch size",
    "neftune_noise_alpha": "no noise is added to embeddings here; --dropout is what keeps a model from its rows",
    "use_liger_kernel": "its kernels are for other classes than the ones trained here",
    "liger_kernel_config": "its kernels are for other classes than the ones trained here",
    "skip_memory_metrics": "figures of memory are not logged",
    "dispatch_batches": "every process makes its own batches",
    "split_batches": "every process makes its own batches",
    "ray_scope": "there is no search over settings",
    "mp_parameters": "SageMaker's model parallelism is not offered",
    "tpu_num_cores": "there is no training on TPUs",
    "tpu_metrics_debug": "there is no training on TPUs",
    "label_smoothing_factor": "a group's target is its positive, and no other loss is offered",
    "log_level": "transformers only speaks of errors here",
    "log_level_replica": "transformers only speaks of errors here",
    "logging_nan_inf_filter": "a loss that is not a number stops the training",
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_model_id",
            "hub_strategy",
            "hub_token",
            "hub_private_repo",
            "hub_always_push",
            "hub_revision",
            "push_to_hub_model_id",
            "push_to_hub_organization",
            "push_to_hub_token",
        ),
        "nothing is uploaded; hf upload does it afterwards",
    ),
}
"""Flags of the field that mean nothing here -> why; accepted, and said aloud."""

_M3 = (
    "bge-m3's sparse and multi-vector scores are not trained here, only its dense vectors are",
    "leave it out to tune those; FlagEmbedding tunes all three",
)
_ICL = (
    "examples before a query (bge-en-icl) are not trained with here",
    "leave it out, and give its layout as --query_instruction_format",
)
NOT_OFFERED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("unified_finetuning", "use_self_distill", "self_distill_start_step", "fix_encoder", "colbert_dim"), _M3
    ),
    **dict.fromkeys(
        ("retrieval_use_examples", "example_query_max_len", "example_passage_max_len", "icl_suffix_str"), _ICL
    ),
    "additional_special_tokens": (
        "a model's vocabulary is what its folder says",
        "add them once with transformers (add_special_tokens, resize_token_embeddings), save, tune that folder",
    ),
    "only_merge_lora_model": (
        "train always trains",
        "finerank merge --model_name_or_path ADAPTER --output_dir MERGED",
    ),
}
"""Flags of FlagEmbedding that ask for what is not done here -> why, and what to do; refused unless switched off."""

LONGEST_WAIT = 6 * 3600
"""Seconds that processes wait for one another: as long as the first one's evaluation may take. A dead one is noticed
at once, by its closed connection or by the launcher."""

FORCED: dict[str, Any] = {
    "remove_unused_columns": False,
    "disable_tqdm": True,
    "log_level": "error",
    "logging_nan_inf_filter": False,
    "load_best_model_at_end": False,
    # Processes run different numbers of forward passes, and no model here has buffers that change.
    "ddp_broadcast_buffers": False,
}
"""What the trainer sees to itself; ``load_best_model_at_end`` is done by our own checkpoints."""


def parse_extras(extras: Mapping[str, Sequence[str]], own: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Turn leftover flags into typed TrainingArguments values.

    Args:
        extras: flag name -> the words that followed it.
        own: names of the verb's own options, for a near miss.

    Returns:
        The values, and the notes to say aloud.

    Raises:
        UsageError: for a name that is neither ours nor transformers' or is not offered, or a value of the wrong kind.
    """
    known = {item.name: str(item.type) for item in dataclasses.fields(TrainingArguments)}
    notes: list[str] = []
    words: dict[str, list[str]] = {}
    for name, values in extras.items():
        present = RENAMED.get(name, name)
        if present in NO_EFFECT:
            notes.append(f"--{name} has no effect on train: {NO_EFFECT[present]}")
        elif present in known:
            words[present] = list(values)
        elif name in NOT_OFFERED:
            why, instead = NOT_OFFERED[name]
            if not values or values[0].lower() not in FALSE_WORDS:
                raise UsageError(f"--{name} is not offered: {why}", hint=instead)
            notes.append(f"--{name} has no effect on train: it is always off")
        elif name == "adafactor":
            # 4.x's switch for what 5.x chooses by --optim.
            if not values or string_to_bool(values[0]):
                words["optim"] = ["adafactor"]
        elif name.startswith("no_") and "bool" in known.get(name[3:], "") and not values:
            words[name[3:]] = ["False"]
        else:
            raise UsageError(
                f"unknown flag --{name} for train{did_you_mean(name, [*own, *known, *RENAMED])}",
                hint="finerank train embedder --help; every transformers.TrainingArguments name works too",
            )
    return _typed(words), notes


def join_processes(typed: dict[str, Any], *, use_cpu: bool) -> None:
    """Join the processes that a launcher has started; in a single process without DeepSpeed this does nothing.

    Args:
        typed: ``ddp_backend`` is taken out of it where the device leaves no choice.
    """
    if typed.get("deepspeed"):
        launch_alone()
    elif not launched():
        return
    # transformers' own word for what FORCED asks of DDP; torch has a newer one.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    if use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    backend = typed.get("ddp_backend")
    if use_cpu and typed.pop("ddp_backend", None) not in (None, "gloo"):
        say(f"note: --ddp_backend {backend} is not for a CPU; the processes talk through gloo")
    if use_cpu:
        # transformers would leave gloo its half hour, which an evaluation may outlast.
        dist.init_process_group("gloo", timeout=timedelta(seconds=LONGEST_WAIT))
        return
    names = ("ddp_backend", "ddp_timeout", "deepspeed")
    values = {name: typed[name] for name in names if name in typed}
    own = {"output_dir": ".", "use_cpu": False, "bf16": False, "ddp_timeout": LONGEST_WAIT}
    # DeepSpeed tells stdout what it has compiled; that is the place of the verb's result.
    with redirect_stdout(sys.stderr):
        _ = training_arguments(own, values).device


def training_arguments(values: Mapping[str, Any], typed: Mapping[str, Any]) -> TrainingArguments:
    """Build the TrainingArguments: ours, then the user's, then what is forced.

    Raises:
        UsageError: if transformers refuses the combination.
    """
    hf_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # It speaks of names that are to change in a later release, not of anything to act on.
            warnings.simplefilter("ignore", FutureWarning)
            arguments = TrainingArguments(**{**values, **typed, **FORCED})
    except (ValueError, TypeError) as error:
        raise UsageError(f"transformers refuses these training options: {' '.join(str(error).split())}") from None
    # Several visible GPUs without torchrun would be wrapped in nn.DataParallel, which cannot split our batches.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """transformers' own parser, so that types are read as its users know; errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[0].lower() + message[1:], hint="finerank train embedder --help")


def _typed(words: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    if not words:
        return {}
    line = [word for name, values in words.items() for word in (f"--{name}", *values)]
    parser = _Parser(TrainingArguments, allow_abbrev=False)
    try:
        namespace = parser.parse_args(line)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    return {name: getattr(namespace, name) for name in words}
