"""The command lines of the five seed documents that prepare data, as they stand there, and how they are run here.

Where the documents lie beside this repository, ``test_documents`` compares every line with them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A command line of a seed.

    Attributes:
        document: how the document's name begins.
        verb: the verb that stands in for the script.
        script: the word that names the script; what follows it are the flags.
        text: the line as printed, continuation marks included.
    """

    document: str
    verb: str
    script: str
    text: str

    def words(self) -> list[str]:
        """Return the verb and the flags, as a shell would split them."""
        words = shlex.split(self.text.replace("\\\n", " "))
        return [*self.verb.split(), *words[words.index(self.script) + 1 :]]


MINE_000 = Line("000", "mine", "finetune.hn_mine", r"""
python -m finetune.hn_mine \
--model_name_or_path BAAI/bge-base-en-v1.5 \
--input_file toy_finetune_data.jsonl \
--output_file toy_finetune_data_minedHN.jsonl \
--range_for_sampling 2-200 \
--negative_number 15 \
--use_gpu_for_searching
""")  # fmt: skip
MINE_001 = Line("001", "mine", "FlagEmbedding.baai_general_embedding.finetune.hn_mine", r"""
python -m FlagEmbedding.baai_general_embedding.finetune.hn_mine \
--model_name_or_path BAAI/bge-large-zh-v1.5 \
--input_file your.jsonl \
--output_file your_finetune_data_minedHN.jsonl \
--range_for_sampling 2-200 \
--negative_number 15 \
--use_gpu_for_searching
""")  # fmt: skip
MINE_004 = Line("004", "mine", "hn_mine.py", r"""
python hn_mine.py \
--model_name_or_path BAAI/bge-base-en-v1.5 \
--input_file toy_finetune_data.jsonl \
--output_file toy_finetune_data_minedHN.jsonl \
--range_for_sampling 2-200 \
--similarity_range 0.3-0.8 \
--negative_number 15 \
--use_gpu_for_searching
""")  # fmt: skip
SCORE_004 = Line("004", "score", "add_reranker_score.py", r"""
python add_reranker_score.py \
--input_file toy_finetune_data_minedHN.jsonl \
--output_file toy_finetune_data_score.jsonl \
--range_for_sampling 2-200 \
--negative_number 15 \
--use_gpu_for_searching
""")  # fmt: skip
SPLIT_004 = Line("004", "split", "split_data_by_length.py", r"""
python split_data_by_length.py \
--input_path train_data \
--output_dir train_data_split \
--cache_dir .cache \
--log_name .split_log \
--length_list 0 500 1000 2000 3000 4000 5000 6000 7000 \
--model_name_or_path BAAI/bge-m3 \
--num_proc 16 \
--overwrite False
""")  # fmt: skip
DATA_LINES = (MINE_000, MINE_001, MINE_004, SCORE_004, SPLIT_004)

OPTIONS = {
    "mine": """
        input_file output_file range_for_sampling negative_number similarity_range candidate_pool use_gpu_for_searching
    """,
    "score": """
        input_file output_file use_fp16 devices trust_remote_code reranker_name_or_path reranker_model_class
        reranker_peft_path use_bf16 query_instruction_for_rerank query_instruction_format_for_rerank
        passage_instruction_for_rerank passage_instruction_format_for_rerank cache_dir reranker_batch_size
        reranker_query_max_length reranker_max_length normalize prompt cutoff_layers compress_ratio compress_layers
    """,
    "split": "input_path output_dir cache_dir log_name length_list model_name_or_path num_proc overwrite",
}
DOCUMENTED = {verb: names.split() for verb, names in OPTIONS.items()}
"""Verb -> the options that seed 004 lists for its script."""
