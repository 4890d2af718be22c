"""The command lines of the five seed documents that prepare data or train, as they stand there, and their words here.

Where the documents lie beside this repository, ``test_documents`` compares every line with them.
"""

from __future__ import annotations

import re
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

    def words(self, **places: str) -> list[str]:
        """Return the verb and the flags, as a shell would split them.

        Args:
            places: what stands in for the text in braces that begins with the name, underscores for spaces.
        """
        text = self.text.replace("\\\n", " ")
        for name, value in places.items():
            text = re.sub(rf"{{{name.replace('_', ' ')}[^}}]*}}", value, text)
        words = shlex.split(text)
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

TRAIN_000 = """    CUDA_VISIBLE_DEVICES=1,2,3,4,5,6,7 torchrun --nproc_per_node 7 run.py \\
    --model_name_or_path BAAI/bge-reranker-v2-m3 \\
    --train_data {train_data} \\
{more}    --learning_rate 6e-5 \\
    --num_train_epochs 5 \\
    --per_device_train_batch_size 8 \\
    --dataloader_drop_last True \\
    --train_group_size 4 \\
    --max_len {max_len} \\
    --weight_decay 0.01 \\
    --logging_steps 500 \\
    --save_steps 500 \\
    --overwrite_output_dir True \\
"""
"""The document prints this line three times, for three kinds of data."""


def _train_000(train_data: str, max_len: int = 512, more: str = "") -> Line:
    text = TRAIN_000.format(train_data=train_data, max_len=max_len, more=more)
    return Line("000", "train reranker", "run.py", text)


TRAIN_000_FILE = _train_000("{realpath to jsonl file}")
TRAIN_000_FOLDER = _train_000("{realpath to jsonl dir}")
TRAIN_000_HUB = _train_000("shoppal/embedding-index", 513, "    --sub_data_name source2.3 \\\n")
TRAIN_001_EMBEDDER = Line("001", "train embedder", "FlagEmbedding.baai_general_embedding.finetune.run", r"""
torchrun --nproc_per_node {number of gpus} \
-m FlagEmbedding.baai_general_embedding.finetune.run \
--output_dir {path to save model} \
--model_name_or_path BAAI/bge-large-zh-v1.5 \
--train_data ./your_data.jsonl \
--learning_rate 1e-5 \
--fp16 \
--num_train_epochs 5 \
--per_device_train_batch_size 4 \
--dataloader_drop_last True \
--normlized True \
--temperature 0.02 \
--query_max_len 64 \
--passage_max_len 256 \
--train_group_size 2 \
--negatives_cross_device \
--logging_steps 10 \
--query_instruction_for_retrieval ""
""")  # fmt: skip
TRAIN_001_RERANKER = Line("001", "train reranker", "FlagEmbedding.reranker.run", r"""
torchrun --nproc_per_node {number of gpus} \
-m FlagEmbedding.reranker.run \
--output_dir {path to save model} \
--model_name_or_path BAAI/bge-reranker-base \
--train_data ./toy_finetune_data.jsonl \
--learning_rate 6e-5 \
--fp16 \
--num_train_epochs 5 \
--per_device_train_batch_size 4 \
--gradient_accumulation_steps 4 \
--dataloader_drop_last True \
--train_group_size 16 \
--max_len 512 \
--weight_decay 0.01 \
--logging_steps 10
""")  # fmt: skip
TRAIN_002_FORM = Line("002", "train reranker", "train.py", r"""
python train.py --model_name_or_path {base reranker model path or name} \
                         --finetune_model_dir {finetune model dir} \
                         --data_path {finetune data path} \
                         --train_group_size {a query corresponds to one positive example and train_group_size-1  negative examples} \
                         --max_len {query + konwdge max tokens}\
                         --batch_size 2 \
                         --total_epoch 1000 \
                         --lr {learnning rate} \
                         --factor {learnning rate attenuation coefficient} \
                         --patience {learnning rate attenuation threshold} \
                         --device cuda
""")  # noqa: E501 # fmt: skip
TRAIN_002 = Line("002", "train reranker", "train.py", r"""
python train.py --model_name_or_path BAAI/bge-reranker-base \
                         --finetune_model_dir ./saved_model/test \
                         --data_path data/0medical.jsonl \
                         --train_group_size 8 \
                         --max_len 512\
                         --batch_size 2 \
                         --total_epoch 1000 \
                         --lr 1e-5 \
                         --factor 0.3 \
                         --patience 8 \
                         --device cuda
""")  # fmt: skip
TRAIN_003 = Line("003", "train reranker", "train_reranker.py", r"""
python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --epochs 2 --batch_size 16 --gradient_accumulation_steps 4 --learning_rate 5e-6 --use_deepspeed --ds_config ./ds_stage0.json
""")  # noqa: E501 # fmt: skip
TRAIN_LINES = (
    TRAIN_000_FILE, TRAIN_000_FOLDER, TRAIN_000_HUB, TRAIN_001_EMBEDDER, TRAIN_001_RERANKER, TRAIN_002_FORM, TRAIN_002,
    TRAIN_003,
)  # fmt: skip

GENERATE_003_BARE = Line("003", "generate", "contrastive_data_generator.py", r"""
python contrastive_data_generator.py
""")  # fmt: skip
GENERATE_003 = Line("003", "generate", "./contrastive_data_generator.py", r"""
python ./contrastive_data_generator.py --config ../config_lib/extract_config_wikifulldoc.yaml --num_examples 1000 --max_doc_candidates 5 --lambda1 0.85 --lambda2 0.05 --lambda3 0.1
""")  # noqa: E501 # fmt: skip
GENERATE_LINES = (GENERATE_003_BARE, GENERATE_003)
TEST_003_FINETUNED = Line("003", "evaluate", "test_reranker.py", r"""
conda activate llm && python test_reranker.py --model_path=./output_new --test_data=./data/test_data.jsonl --output_file=./finetune_results.json
""")  # noqa: E501 # fmt: skip
TEST_003_NEW = Line("003", "evaluate", "test_reranker.py", r"""
conda activate llm && python test_reranker.py --model_path=./output_new --test_data=./data/test_data.jsonl --output_file=./new_model_results.json
""")  # noqa: E501 # fmt: skip
TEST_003 = (TEST_003_FINETUNED, TEST_003_NEW)
ABLATE_003 = Line("003", "ablate", "rerank_ablation_test.py", r"""
python rerank_ablation_test.py --config_path ./config_lib/example_config.yaml --output_file ./ablation_results/results.json
""")  # noqa: E501 # fmt: skip
ABLATE_003_ALL = Line("003", "ablate", "./rerank_ablation_test.py", r"""
conda activate llm && python ./rerank_ablation_test.py --config ../config_lib/extract_config_wikifulldoc.yaml --num 50 --candidates 5
""")  # noqa: E501 # fmt: skip
ABLATE_003_SINGLE = Line("003", "ablate", "./rerank_ablation_test.py", r"""
conda activate llm && CUDA_VISIBLE_DEVICES=3 python ./rerank_ablation_test.py --config ../config_lib/extract_config_wikifulldoc.yaml --num 50 --candidates 5 --single diverse
""")  # noqa: E501 # fmt: skip
ABLATE_003_LISTED = Line("003", "ablate", "./rerank_ablation_test.py", r"""
conda activate llm && CUDA_VISIBLE_DEVICES=3 python ./rerank_ablation_test.py --config ../config_lib/extract_config_wikifulldoc.yaml --num 50 --candidates 5 --doc_ids ./sampled_doc_ids.txt
""")  # noqa: E501 # fmt: skip
ABLATION_LINES = (*TEST_003, ABLATE_003, ABLATE_003_ALL, ABLATE_003_SINGLE, ABLATE_003_LISTED)

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
