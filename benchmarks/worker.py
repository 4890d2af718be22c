"""One engine in a process of its own: reads jobs as JSON lines on stdin, does them, answers with seconds.

    python benchmarks/worker.py ENGINE MODEL      ENGINE: finerank, finerank-float32, finerank-int8, st,
                                                  st-bf16, st-openvino, fe, fe-bf16, or exported:FOLDER, an embedder
                                                  that finerank export wrote

Only the work is timed: models are loaded and a short warm-up is run before. A training counts from the begin of its
first step to the end of its last one, by the same callback in all engines. ``fe`` needs FlagEmbedding's environment,
``st-openvino`` (bfloat16) one with optimum-intel.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

PASSAGE_LEN = 256
PAIR_LEN = 256


class Finerank:
    """finerank; dtype auto is what a user gets."""

    def __init__(self, model: str, dtype: str) -> None:
        from finerank.models.load import load_encoder

        self.model, self.dtype = model, dtype
        self.encoder = load_encoder(model, dtype=dtype, passage_max_len=PASSAGE_LEN)
        self.scorer: Any = None

    def encode(self, texts: list[str]) -> None:
        self.encoder.encode(texts, "passage")

    def score(self, pairs: list[tuple[str, str]], reranker: str) -> None:
        from finerank.models.load import load_scorer

        if self.scorer is None:
            self.scorer = load_scorer(reranker, dtype=self.dtype, max_len=PAIR_LEN)
        self.scorer.score(pairs)

    def train_reranker(self, rows: str, steps: int, batch: int, group: int) -> float:
        from finerank import RerankerOptions

        return self._trained(RerankerOptions, PAIR_LEN, rows, steps, batch, group)

    def train_embedder(self, rows: str, steps: int, batch: int, group: int) -> float:
        from finerank import EmbedderOptions

        return self._trained(EmbedderOptions, PASSAGE_LEN, rows, steps, batch, group)

    def _trained(self, options: Any, length: int, rows: str, steps: int, batch: int, group: int) -> float:
        from finerank import train

        with tempfile.TemporaryDirectory() as folder, clocked() as clock:
            given = options(
                model_name_or_path=self.model, train_data=[rows], output_dir=f"{folder}/model", max_len=length,
                max_steps=steps, per_device_train_batch_size=batch, train_group_size=group, dtype=self.dtype,
                save_steps=10_000, dropout=DROPOUT,
            )  # fmt: skip
            train(given, {})
            return float(clock.seconds)

    def mine(self, rows: str) -> None:
        from finerank import MineOptions, mine

        with tempfile.TemporaryDirectory() as folder:
            mine(
                MineOptions(
                    model_name_or_path=self.model,
                    input_file=[rows],
                    output_file=f"{folder}/out.jsonl",
                    dtype=self.dtype,
                    embedding_cache="none",
                    embedder_passage_max_length=PASSAGE_LEN,
                )  # fmt: skip
            )


class SentenceTransformers:
    """sentence-transformers at its defaults, or with the model and autocast in bfloat16."""

    def __init__(self, model: str, variant: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self.model, self.bf16 = model, variant == "bf16"
        self.kwargs: dict[str, Any] = {"dtype": torch.bfloat16} if self.bf16 else {}
        backend = "torch"
        if variant == "openvino":
            backend, self.kwargs = "openvino", {"ov_config": {"INFERENCE_PRECISION_HINT": "bf16"}}
        self.backend: Any = backend
        self.encoder = SentenceTransformer(model, device="cpu", model_kwargs=self.kwargs, backend=self.backend)
        self.encoder.max_seq_length = PASSAGE_LEN
        self.scorer: Any = None

    def encode(self, texts: list[str]) -> None:
        self.encoder.encode(texts, show_progress_bar=False)

    def score(self, pairs: list[tuple[str, str]], reranker: str) -> None:
        from sentence_transformers import CrossEncoder

        if self.scorer is None:
            self.scorer = CrossEncoder(
                reranker, device="cpu", max_length=PAIR_LEN, model_kwargs=self.kwargs, backend=self.backend
            )
        self.scorer.predict(pairs, show_progress_bar=False)

    def train_reranker(self, rows: str, steps: int, batch: int, group: int) -> float:
        from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
        from sentence_transformers.cross_encoder.losses import ListNetLoss

        model = CrossEncoder(self.model, num_labels=1, device="cpu", max_length=PAIR_LEN)
        data = _dataset(rows, group, labels=True)
        return _timed_training(
            CrossEncoderTrainer, CrossEncoderTrainingArguments, model, data, ListNetLoss(model), steps, batch, self.bf16
        )

    def train_embedder(self, rows: str, steps: int, batch: int, group: int) -> float:
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        model = SentenceTransformer(self.model, device="cpu")
        model.max_seq_length = PASSAGE_LEN
        data = _dataset(rows, group, labels=False)
        return _timed_training(
            SentenceTransformerTrainer, SentenceTransformerTrainingArguments, model, data,
            MultipleNegativesRankingLoss(model), steps, batch, self.bf16,
        )  # fmt: skip

    def mine(self, rows: str) -> None:
        from datasets import Dataset
        from sentence_transformers.util import mine_hard_negatives

        read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").split("\n") if line]
        corpus = list(dict.fromkeys(text for row in read for text in [*row["pos"], *row.get("neg", [])]))
        data = Dataset.from_dict(
            {"anchor": [row["query"] for row in read], "positive": [row["pos"][0] for row in read]}
        )
        mine_hard_negatives(
            data, self.encoder, corpus=corpus, range_min=10, range_max=210, num_negatives=15,
            sampling_strategy="random", verbose=False, output_format="n-tuple",
        )  # fmt: skip


class FlagEmbedding:
    """FlagEmbedding 1.4.2 as its documentation calls it; on a CPU its half precision is off."""

    def __init__(self, model: str, variant: str) -> None:
        from FlagEmbedding.inference.embedder.encoder_only.base import BaseEmbedder

        self.model, self.bf16 = model, variant == "bf16"
        self.encoder = BaseEmbedder(
            model, normalize_embeddings=True, use_fp16=False, use_bf16=self.bf16, pooling_method="mean", devices="cpu"
        )
        self.scorer: Any = None

    def encode(self, texts: list[str]) -> None:
        self.encoder.encode(texts, max_length=PASSAGE_LEN)

    def score(self, pairs: list[tuple[str, str]], reranker: str) -> None:
        from FlagEmbedding import FlagReranker

        if self.scorer is None:
            self.scorer = FlagReranker(reranker, use_fp16=False, devices="cpu")
        self.scorer.compute_score([list(pair) for pair in pairs], max_length=PAIR_LEN)

    def train_reranker(self, rows: str, steps: int, batch: int, group: int) -> float:
        from FlagEmbedding.abc.finetune.reranker import (
            AbsRerankerDataArguments,
            AbsRerankerModelArguments,
            AbsRerankerTrainingArguments,
        )
        from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner

        return self._trained(
            EncoderOnlyRerankerRunner, AbsRerankerModelArguments,
            AbsRerankerDataArguments(
                train_data=[rows], train_group_size=group, query_max_len=64, passage_max_len=PAIR_LEN - 64
            ),
            AbsRerankerTrainingArguments, steps, batch,
        )  # fmt: skip

    def train_embedder(self, rows: str, steps: int, batch: int, group: int) -> float:
        from FlagEmbedding.abc.finetune.embedder import (
            AbsEmbedderDataArguments,
            AbsEmbedderModelArguments,
            AbsEmbedderTrainingArguments,
        )
        from FlagEmbedding.finetune.embedder.encoder_only.base import EncoderOnlyEmbedderRunner

        return self._trained(
            EncoderOnlyEmbedderRunner, AbsEmbedderModelArguments,
            AbsEmbedderDataArguments(
                train_data=[rows], train_group_size=group, query_max_len=PASSAGE_LEN, passage_max_len=PASSAGE_LEN
            ),
            partial(AbsEmbedderTrainingArguments, sentence_pooling_method="mean", normalize_embeddings=True),
            steps, batch,
        )  # fmt: skip

    def _trained(self, runner: Any, model: Any, data: Any, arguments: Any, steps: int, batch: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            asked = arguments(
                output_dir=f"{folder}/model", max_steps=steps, per_device_train_batch_size=batch, use_cpu=True,
                bf16=self.bf16, save_strategy="no", report_to=[], dataloader_drop_last=True, learning_rate=6e-5,
            )  # fmt: skip
            given = model(model_name_or_path=self.model)
            return _steps_timed(runner(model_args=given, data_args=data, training_args=asked).trainer)

    def mine(self, rows: str) -> None:
        raise NotImplementedError("its script is a command line: see reference in README.md")


DROPOUT: float | None = float(os.environ["BENCH_DROPOUT"]) if os.environ.get("BENCH_DROPOUT") else None


def _dataset(rows: str, group: int, *, labels: bool) -> Any:
    from datasets import Dataset

    read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").split("\n") if line]
    if labels:
        docs = [[row["pos"][0], *row["neg"][: group - 1]] for row in read]
        return Dataset.from_dict({
            "query": [row["query"] for row in read], "docs": docs, "labels": [[1] + [0] * (len(d) - 1) for d in docs],
        })  # fmt: skip
    columns = {"anchor": [row["query"] for row in read], "positive": [row["pos"][0] for row in read]}
    for place in range(group - 1):
        columns[f"negative_{place + 1}"] = [row["neg"][place] for row in read]
    return Dataset.from_dict(columns)


def _timed_training(
    trainer_class: Any, arguments_class: Any, model: Any, data: Any, loss: Any, steps: int, batch: int, bf16: bool
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = arguments_class(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=batch, bf16=bf16, use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=10_000, learning_rate=6e-5,
        )  # fmt: skip
        return _steps_timed(trainer_class(model=model, args=arguments, train_dataset=data, loss=loss))


def _steps_timed(trainer: Any) -> float:
    """Train, and return the seconds from the first step's begin to the last step's end."""
    clock = _clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


@contextlib.contextmanager
def clocked() -> Iterator[Any]:
    """Give a clock that the next trainer will tell of its steps."""
    from transformers import trainer

    clock = _clock()
    trainer.DEFAULT_CALLBACKS.append(clock)
    try:
        yield clock
    finally:
        trainer.DEFAULT_CALLBACKS.remove(clock)


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        begun = ended = 0.0

        @property
        def seconds(self) -> float:
            return self.ended - self.begun

        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            self.begun = self.begun or time.perf_counter()

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            self.ended = time.perf_counter()

    return Clock()


class Exported(Finerank):
    """An embedder's graph; encoding alone."""

    def score(self, pairs: list[tuple[str, str]], reranker: str) -> None:
        raise NotImplementedError("an embedder")

    def train_reranker(self, rows: str, steps: int, batch: int, group: int) -> float:
        raise NotImplementedError("graphs are not trained")

    train_embedder = train_reranker


def build(engine: str, model: str) -> Any:
    if engine.startswith("exported:"):
        return Exported(engine.partition(":")[2], "auto")
    name, _, variant = engine.partition("-")
    if name == "finerank":
        return Finerank(model, variant or "auto")
    return {"st": SentenceTransformers, "fe": FlagEmbedding}[name](model, variant)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr; stdout carries answers only
    engine = build(sys.argv[1], sys.argv[2])
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        job = json.loads(line)
        work, arguments = job.pop("work"), job
        if "pairs" in arguments:
            arguments["pairs"] = [tuple(pair) for pair in arguments["pairs"]]
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                own_clock = getattr(engine, work)(**arguments)
            answers.write(json.dumps({"seconds": own_clock or time.perf_counter() - start}) + "\n")
        except Exception as error:
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}) + "\n")


if __name__ == "__main__":
    main()
