"""One peer trains once, in a process of its own: ``python trainer_engines.py st|fe embedder|reranker JOB.json``.

See trainers.py. Imports nothing of finerank, so that it runs in a peer's own environment. Batches, groups and
epochs are those of recipes/train/; the other settings are what the peers' documentation shows for this kind of job.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

QUERY_LEN, PASSAGE_LEN, PAIR_LEN = 48, 128, 256
GROUP = {"embedder": 2, "reranker": 4}
BATCH = {"embedder": 32, "reranker": 8}


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def arguments(job: dict[str, Any], family: str, **more: Any) -> dict[str, Any]:
    """Return what both of sentence-transformers' trainers are given."""
    return {
        "output_dir": f"{job['out']}-checkpoints", "num_train_epochs": 1, "seed": job["seed"], "learning_rate": 2e-5,
        "per_device_train_batch_size": BATCH[family], "warmup_steps": 0.1, "use_cpu": True, "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, **more,
    }  # fmt: skip


def st_embedder(job: dict[str, Any]) -> None:
    """MultipleNegativesRankingLoss over anchor, positive and one negative, no duplicates in a batch."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    model = SentenceTransformer(job["model"], device="cpu")
    model.max_seq_length = PASSAGE_LEN
    rows = [row for row in read(job["rows"]) if row["neg"]]
    data = Dataset.from_dict({
        "anchor": [row["query"] for row in rows],
        "positive": [row["pos"][0] for row in rows],
        "negative": [row["neg"][0] for row in rows],
    })  # fmt: skip
    given = SentenceTransformerTrainingArguments(
        **arguments(job, "embedder", batch_sampler=BatchSamplers.NO_DUPLICATES)
    )
    SentenceTransformerTrainer(
        model=model, args=given, train_dataset=data, loss=MultipleNegativesRankingLoss(model)
    ).train()
    model.save_pretrained(job["out"])


def st_reranker(job: dict[str, Any]) -> None:
    """BinaryCrossEntropyLoss over labelled pairs, positives weighted by the number of negatives."""
    import torch
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(job["model"], num_labels=1, device="cpu", max_length=PAIR_LEN)
    negatives = GROUP["reranker"] - 1
    pairs = [
        (row["query"], text, label)
        for row in read(job["rows"])
        for text, label in [(row["pos"][0], 1.0), *((text, 0.0) for text in row["neg"][:negatives])]
    ]
    queries, passages, labels = zip(*pairs)
    data = Dataset.from_dict({"query": list(queries), "passage": list(passages), "label": list(labels)})
    batch = BATCH["reranker"] * GROUP["reranker"]
    given = CrossEncoderTrainingArguments(**arguments(job, "reranker", per_device_train_batch_size=batch))
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(negatives)))
    CrossEncoderTrainer(model=model, args=given, train_dataset=data, loss=loss).train()
    model.save_pretrained(job["out"])


def fe_words(job: dict[str, Any], family: str) -> list[str]:
    """Return the flags that FlagEmbedding's examples show, on a CPU."""
    shared = [
        "--model_name_or_path", job["model"], "--train_data", job["rows"], "--output_dir", job["out"],
        "--overwrite_output_dir", "--num_train_epochs", "1", "--per_device_train_batch_size", str(BATCH[family]),
        "--train_group_size", str(GROUP[family]), "--dataloader_drop_last", "True", "--warmup_ratio", "0.1",
        "--seed", str(job["seed"]), "--use_cpu", "True", "--save_strategy", "no", "--report_to", "none",
        "--logging_steps", "50",
    ]  # fmt: skip
    if family == "embedder":
        return [
            *shared, "--learning_rate", "1e-5", "--query_max_len", str(QUERY_LEN), "--passage_max_len",
            str(PASSAGE_LEN), "--temperature", "0.02", "--sentence_pooling_method", "mean", "--normalize_embeddings",
            "True",
        ]  # fmt: skip
    return [
        *shared, "--learning_rate", "6e-5", "--weight_decay", "0.01", "--query_max_len", str(QUERY_LEN),
        "--passage_max_len", str(PAIR_LEN - QUERY_LEN),
    ]  # fmt: skip


def main() -> None:
    engine, family, job = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
    if engine == "st":
        {"embedder": st_embedder, "reranker": st_reranker}[family](job)
        return
    module = f"FlagEmbedding.finetune.{family}.encoder_only.base"
    sys.argv = [module, *fe_words(job, family)]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
