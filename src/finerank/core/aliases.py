"""Every foreign spelling of an option, in one table: verb -> what people type -> what it is called here.

``"*"`` holds for all verbs, ``train`` for both families; a verb's own entry wins. Only names that the verb declares are
mapped, so one line can serve several verbs. Spellings come from FlagEmbedding 1.2.9 to 1.4, transformers 4 and the
seeds.
"""

from __future__ import annotations

ALIASES: dict[str, dict[str, str]] = {
    "*": {
        "normlized": "normalize_embeddings",
        "embedder_name_or_path": "model_name_or_path",
        "embedder_query_max_len": "embedder_query_max_length",
        "embedder_passage_max_len": "embedder_passage_max_length",
        "output": "output_file",
        "o": "output_file",
        "m": "model_name_or_path",
        "model_path": "model_name_or_path",
        "model_class": "reranker_model_class",
        "peft_path": "reranker_peft_path",
    },
    "train": {
        "finetune_model_dir": "output_dir",
        "data_path": "train_data",
        "lr": "learning_rate",
        "epochs": "num_train_epochs",
        "total_epoch": "num_train_epochs",
        "batch_size": "per_device_train_batch_size",
        "overwrite_output_dir": "overwrite",
        "evaluation_strategy": "eval_strategy",
        "pooling_method": "sentence_pooling_method",
        "same_task_within_batch": "same_dataset_within_batch",
        "ds_config": "deepspeed",
        "deepspeed_config": "deepspeed",
        "lora": "use_lora",
        "merge_lora": "save_merged_lora_model",
        "lora_extra_parameters": "modules_to_save",
    },
    "train embedder": {
        "query_instruction": "query_instruction_for_retrieval",
        "query_instruction_format_for_retrieval": "query_instruction_format",
    },
    "train reranker": {
        "finetune_type": "model_type",
        "query_instruction_format": "query_instruction_format_for_rerank",
        "passage_instruction_format": "passage_instruction_format_for_rerank",
    },
    "run": {
        "from": "start",
    },
    "merge": {
        "with": "merge_with",
    },
    "ablate": {
        "doc_ids": "doc_ids_file",
        "zero_shot_path": "reranker_path",
    },
    "evaluate": {
        "d": "data",
        "test_data": "data",
        "sd": "sub_data_name",
        "max_length": "max_len",
    },
    "mine": {
        "sentence_pooling_method": "pooling_method",
        "query_max_len": "embedder_query_max_length",
        "passage_max_len": "embedder_passage_max_length",
    },
    "rerank": {
        "model_dir": "model_name_or_path",
        "data_path": "input_file",
        "max_len": "max_length",
    },
    "generate": {
        "doc_ids": "doc_ids_file",
        "output": "summary",
        "model_name_or_path": "embedder",
        "m": "embedder",
        "model_path": "embedder",
        "embedder_name_or_path": "embedder",
        "corpus_path": "corpus",
        "num": "num_examples",
        "candidates": "max_doc_candidates",
        "query_max_len": "embedder_query_max_length",
        "passage_max_len": "embedder_passage_max_length",
        "sentence_pooling_method": "pooling_method",
    },
    "score": {
        "model_name_or_path": "reranker_name_or_path",
        "m": "reranker_name_or_path",
        "model_path": "reranker_name_or_path",
        "embedder_name_or_path": "embedder_name_or_path",
        "batch_size": "reranker_batch_size",
        "max_length": "reranker_max_length",
        "max_len": "reranker_max_length",
        "query_max_length": "reranker_query_max_length",
        "query_max_len": "reranker_query_max_length",
        "query_instruction_format": "query_instruction_format_for_rerank",
        "passage_instruction_format": "passage_instruction_format_for_rerank",
    },
    "embed": {
        "sentence_pooling_method": "pooling_method",
        "query_max_len": "embedder_query_max_length",
        "passage_max_len": "embedder_passage_max_length",
    },
    "convert": {
        "to": "to_format",
        "from": "from_format",
        "input_file": "files",
        "train_data": "files",
    },
    "check": {
        "train_data": "files",
        "input_file": "files",
    },
}

DTYPE_FLAGS: dict[str, str] = {
    "use_fp16": "float16",
    "fp16": "float16",
    "use_bf16": "bfloat16",
    "bf16": "bfloat16",
}
"""Bare precision switches and the ``--dtype`` they mean; the verb decides what the device can do."""


SHORT_FLAGS = frozenset({"m", "d", "sd", "o"})
"""Aliases that are typed with one dash."""


def aliases_for(verb: str) -> dict[str, str]:
    """Return alias -> canonical name for one verb."""
    return ALIASES["*"] | ALIASES.get(verb.split()[0], {}) | ALIASES.get(verb, {})
