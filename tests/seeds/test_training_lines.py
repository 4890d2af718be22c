"""Every training command line of seeds 000 to 003 runs, flag for flag; tiny models stand in for the hub's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main

from .lines import (
    TRAIN_000_FILE,
    TRAIN_000_FOLDER,
    TRAIN_000_HUB,
    TRAIN_001_EMBEDDER,
    TRAIN_002,
    TRAIN_002_FORM,
    TRAIN_003,
    TRAIN_LINES,
    Line,
)
from .test_data_lines import toy_data, value

DS_STAGE_0 = {
    "zero_optimization": {"stage": 0},
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 10},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto",
                   "total_num_steps": "auto"},
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}  # fmt: skip
NAMES = ["000 file", "000 folder", "000 hub", "001 embedder", "001 reranker", "002 form", "002", "003"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepared(line: Line, encoder: str, reranker: str) -> list[str]:
    """Return the line's words with local models for the hub's, and write the data that it names."""
    words = line.words(
        realpath_to_jsonl="data/rows.jsonl" if line is TRAIN_000_FILE else "data",
        number_of="2", path_to_save="saved", base_reranker=reranker, finetune_model_dir="saved",
        finetune_data="data/rows.jsonl", a_query="4", query_="48", learnning_rate_attenuation_coefficient="0.3",
        learnning_rate_attenuation_threshold="2", learnning_rate="1e-5",
    )  # fmt: skip
    model = encoder if line is TRAIN_001_EMBEDDER else reranker
    words = [model if word.startswith("BAAI/") else word for word in words]
    data = value(words, "--data_path" if "--data_path" in words else "--train_data")
    if line is TRAIN_000_HUB:
        toy_data(data / value(words, "--sub_data_name") / "train.jsonl", 12)
    elif line is TRAIN_000_FOLDER:
        toy_data(data / "one.jsonl", 9)
        toy_data(data / "two.jsonl", 8)
    else:
        toy_data(data, 16)
    if line is TRAIN_003:
        Path("ds_stage0.json").write_text(json.dumps(DS_STAGE_0))
        Path("models").mkdir()
        Path("models/bge-reranker-v2-m3").symlink_to(reranker)
    return words


def folder_of(line: Line, words: list[str]) -> Path:
    """Return where the model goes, also where the line does not say so."""
    for flag in ("--output_dir", "--finetune_model_dir"):
        if flag in words:
            return value(words, flag)
    return Path("rerank_output")


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(f"{folder}.manifest.json").read_text())
    return content


@pytest.mark.parametrize("line", TRAIN_LINES, ids=NAMES)
def test_train(line: Line, tiny_encoder: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = prepared(line, tiny_encoder, tiny_reranker)
    # A thousand epochs are for the slow test.
    short = ["--max_steps", "3"] if "--total_epoch" in words else []
    assert main([*words, *short]) == 0
    folder, said = folder_of(line, words), capsys.readouterr().err
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "README.md", "training.html", "metrics.jsonl"} <= names
    options = manifest(folder)["options"]
    if "--fp16" in words:
        assert "float16 is not computed on a CPU" in said
    if line is TRAIN_000_FOLDER:
        assert manifest(folder)["counts"]["rows"] == 17
    if line in (TRAIN_002, TRAIN_002_FORM):
        assert "there is no CUDA device on this machine; training runs on the CPU" in said
        assert "no --eval_data: 30% of the queries are held out" in said
        assert "clipped to a norm of 1; --clip value cuts each element to ±0.5" in said
        assert (options["metric_for_best_model"], options["lr_scheduler_type"]) == ("loss", "reduce_lr_on_plateau")
        assert manifest(folder)["counts"]["rows"] == 11
    if line is TRAIN_003:
        assert (options["num_train_epochs"], options["per_device_train_batch_size"]) == (2.0, 16)
    if line is TRAIN_001_EMBEDDER:
        assert (options["temperature"], options["normalize_embeddings"], options["query_max_len"]) == (0.02, True, 64)
        assert options["query_instruction_for_retrieval"] == ""


def test_the_base_model_of_seed_003_where_its_folder_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = TRAIN_003.words()
    toy_data(value(words, "--train_data"))
    Path("ds_stage0.json").write_text(json.dumps(DS_STAGE_0))
    assert main(words) == 1  # there is no hub here
    said = capsys.readouterr().err
    assert "no ./models/bge-reranker-v2-m3 here: BAAI/bge-reranker-v2-m3 is tuned" in said
    assert "model BAAI/bge-reranker-v2-m3 not found" in said


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAIN_LINES, ids=NAMES)
def test_train_in_two_processes(line: Line, tiny_encoder: str, tiny_reranker: str) -> None:
    words = prepared(line, tiny_encoder, tiny_reranker)
    short = ["--max_steps", "6"] if "--total_epoch" in words else []
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "finerank", *words, *short], capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder_of(line, words) / "model.safetensors").is_file()
    assert manifest(folder_of(line, words))["counts"]["steps"] > 0
    assert done.stderr.count(f"finerank {words[0]} {words[1]}\n") == 1


@pytest.mark.slow
def test_a_thousand_epochs_verbatim(tiny_encoder: str, tiny_reranker: str) -> None:
    words = prepared(TRAIN_002, tiny_encoder, tiny_reranker)
    assert main(words) == 0
    counts = manifest(folder_of(TRAIN_002, words))["counts"]
    assert counts["best"]["loss"] < counts["base"]["loss"]
    assert counts["exhausted"] or counts["steps"] == 6000
